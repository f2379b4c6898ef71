"""What callers of the offline API give and get: sampling parameters in, outputs out.

Friendly counterparts of the messages; `resolve` makes the messages of them.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from quire.shared import messages
from quire.shared.messages import GenerationDefaults, TextParams

from .offline_bounds import check_bias, check_ids, check_numbers, check_strings

_MAY_BE_NONE = (
    "max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "logprobs",
    "prompt_logprobs", "truncate_prompt_tokens",
)  # fmt: skip
_KINDS = ("json", "regex", "choice", "grammar", "structural_tag")


class StructuredOutputs(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer has to be; exactly one of the first five. Raises ValueError."""

    json: dict[str, Any] | str | None = None
    """A JSON schema, as a dict or as JSON; {"type": "object"} is any object."""
    regex: str | None = None
    """Of the whole answer, in Rust's syntax."""
    choice: Sequence[str] | None = None
    grammar: str | None = None
    """Lark, as llguidance reads it, or GBNF."""
    structural_tag: dict[str, Any] | str | None = None
    disable_any_whitespace: bool = True
    """Compact JSON."""
    after: str = ""
    """The constraint begins behind this text, for example "</think>"."""

    def __post_init__(self) -> None:
        given = [name for name in _KINDS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"structured outputs need exactly one of {', '.join(_KINDS)}; {len(given)} are given")
        self.constraint()  # what has no JSON is the caller's to know

    def constraint(self) -> messages.Constraint:
        kind, body = next((name, value) for name in _KINDS if (value := getattr(self, name)) is not None)
        if not isinstance(body, str):
            body = msgspec.json.encode(body).decode()
        return messages.Constraint(kind, body, is_whitespace_flexible=not self.disable_any_whitespace, after=self.after)


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How an output is drawn. None: as the checkpoint says, and if it says nothing, neutral.

    Raises ValueError or TypeError, saying what is out of bounds.
    """

    n: int = 1
    max_tokens: int | None = 256
    """None: as many as fit."""
    min_tokens: int = 0
    temperature: float | None = None
    """0 is greedy."""
    top_p: float | None = None
    top_k: int | None = None
    """0 and -1 are off."""
    min_p: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int | None = None
    """Same seed, same output, whatever runs beside it; None draws one for each prompt."""
    stop: str | Sequence[str] = ()
    stop_token_ids: Sequence[int] = ()
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    logit_bias: dict[int, float] = {}
    allowed_token_ids: Sequence[int] | None = None
    bad_words: str | Sequence[str] = ()
    """Not to be written in the tokens that the tokenizer makes of them, at the beginning or behind a space."""
    logprobs: int | None = None
    """None: none; 0: of the sampled tokens; k: and of the k likeliest."""
    prompt_logprobs: int | None = None
    """The same of the prompt's tokens, in the output's `prompt_logprobs`."""
    truncate_prompt_tokens: int | None = None
    """Only so many of the prompt's tokens, its last ones; -1: as many as fit."""
    truncation_side: str = "left"
    """Where tokens are left out: at "left", or at "right", which keeps the first ones."""
    priority: int = 0
    cache_salt: str = ""
    """Only prompts with the same one share what the prefix cache has of them."""
    structured_outputs: StructuredOutputs | None = None
    """What the answer has to be; a schema or grammar that cannot be followed is the output's error."""

    def __post_init__(self) -> None:
        check_numbers(self, _MAY_BE_NONE)
        check_strings("stop", self.stop)
        check_strings("bad_words", self.bad_words)
        check_ids("stop_token_ids", self.stop_token_ids)
        check_bias("logit_bias", self.logit_bias)
        if self.allowed_token_ids is not None:
            check_ids("allowed_token_ids", self.allowed_token_ids)
            if not self.allowed_token_ids:
                raise ValueError("allowed_token_ids is empty: no token could be sampled")
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens is {self.min_tokens}; max_tokens is {self.max_tokens}")
        if self.truncate_prompt_tokens == 0:
            raise ValueError("truncate_prompt_tokens is 0; it must be -1 or at least 1")
        if self.truncation_side not in ("left", "right"):
            raise ValueError(f"truncation_side is {self.truncation_side!r}; it must be 'left' or 'right'")
        if not isinstance(self.cache_salt, str):
            raise TypeError(f"cache_salt is {self.cache_salt!r}; it must be a string")
        if not isinstance(self.structured_outputs, StructuredOutputs | None):
            raise TypeError(f"structured_outputs is {self.structured_outputs!r}; it must be StructuredOutputs(...)")

    def resolve(self, defaults: GenerationDefaults) -> messages.SamplingParams:
        """With the checkpoint's defaults and a seed filled in."""

        def first(given: float | None, default: float | None, neutral: float) -> float:
            return float(next(value for value in (given, default, neutral) if value is not None))

        return messages.SamplingParams(
            max_tokens=None if self.max_tokens is None else int(self.max_tokens),
            min_tokens=int(self.min_tokens),
            temperature=first(self.temperature, defaults.temperature, 1.0),
            top_k=max(0, int(first(self.top_k, defaults.top_k, 0))),
            top_p=first(self.top_p, defaults.top_p, 1.0),
            min_p=first(self.min_p, defaults.min_p, 0.0),
            presence_penalty=float(self.presence_penalty),
            frequency_penalty=float(self.frequency_penalty),
            repetition_penalty=first(self.repetition_penalty, defaults.repetition_penalty, 1.0),
            seed=secrets.randbits(64) if self.seed is None else int(self.seed) % 2**64,
            ignore_eos=bool(self.ignore_eos),
            stop_token_ids=[int(one) for one in self.stop_token_ids],
            logit_bias={int(one): float(bias) for one, bias in self.logit_bias.items()},
            allowed_token_ids=None if self.allowed_token_ids is None else [int(one) for one in self.allowed_token_ids],
            logprobs=None if self.logprobs is None else int(self.logprobs),
            prompt_logprobs=None if self.prompt_logprobs is None else int(self.prompt_logprobs),
        )

    def text_params(self) -> TextParams:
        return TextParams(
            stop=[self.stop] if isinstance(self.stop, str) else list(self.stop),
            include_stop_str_in_output=bool(self.include_stop_str_in_output),
            skip_special_tokens=bool(self.skip_special_tokens),
            spaces_between_special_tokens=bool(self.spaces_between_special_tokens),
            truncate_prompt_tokens=None if self.truncate_prompt_tokens is None else int(self.truncate_prompt_tokens),
            keeps_start=self.truncation_side == "right",
            bad_words=[self.bad_words] if isinstance(self.bad_words, str) else list(self.bad_words),
            return_prompt_ids=True,
        )


class TokenLogprob(msgspec.Struct, frozen=True):
    """One sampled token and the likeliest ones at its place, likeliest first."""

    token_id: int
    token: str
    logprob: float
    top: list[tuple[int, str, float]] = []


class Completion(msgspec.Struct):
    """One choice."""

    index: int
    text: str = ""
    token_ids: list[int] = []
    finish_reason: str = ""
    """stop | length | abort | error."""
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprob] | None = None
    score: float | None = None
    """Of a beam: the sum of its tokens' logprobs over its length to the power of the length penalty."""


class Delta(msgspec.Struct):
    """What is new of a choice. The last one of a choice has its finish reason."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: str = ""
    stop_reason: int | str | None = None
    logprobs: list[TokenLogprob] | None = None


class Output(msgspec.Struct):
    """What became of one prompt. `error` is a sentence when it was refused or failed, '' otherwise."""

    prompt_ids: list[int]
    choices: list[Completion]
    error: str = ""
    num_cached_tokens: int = 0
    prompt_logprobs: list[TokenLogprob | None] | None = None
    """One a prompt token; None for the first, which nothing precedes."""

    @property
    def text(self) -> str:
        """Of the first choice."""
        return self.choices[0].text

    @property
    def token_ids(self) -> list[int]:
        """Of the first choice."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> str:
        """Of the first choice."""
        return self.choices[0].finish_reason
