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

    def constraint(self) -> messages.Constraint:
        kind, body = next((name, value) for name in _KINDS if (value := getattr(self, name)) is not None)
        if not isinstance(body, str):
            body = msgspec.json.encode(body).decode()
        return messages.Constraint(kind, body, is_whitespace_flexible=not self.disable_any_whitespace, after=self.after)


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How an output is drawn. None: as the checkpoint says, and if it says nothing, neutral."""

    n: int = 1
    max_tokens: int | None = 256
    """None: as many as fit."""
    min_tokens: int = 0
    temperature: float | None = None
    """0 is greedy."""
    top_p: float | None = None
    top_k: int | None = None
    """0 is off."""
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
    logit_bias: dict[int, float] = {}
    allowed_token_ids: Sequence[int] | None = None
    bad_words: Sequence[str] = ()
    """Not to be written in the tokens that the tokenizer makes of them, at the beginning or behind a space."""
    logprobs: int | None = None
    """None: none; 0: of the sampled tokens; k: and of the k likeliest."""
    priority: int = 0
    structured_outputs: StructuredOutputs | None = None
    """What the answer has to be; a schema or grammar that cannot be followed is the output's error."""

    def resolve(self, defaults: GenerationDefaults) -> messages.SamplingParams:
        """With the checkpoint's defaults and a seed filled in."""

        def first(given: float | None, default: float | None, neutral: float) -> float:
            return next(value for value in (given, default, neutral) if value is not None)

        return messages.SamplingParams(
            max_tokens=self.max_tokens,
            min_tokens=self.min_tokens,
            temperature=first(self.temperature, defaults.temperature, 1.0),
            top_k=int(first(self.top_k, defaults.top_k, 0)),
            top_p=first(self.top_p, defaults.top_p, 1.0),
            min_p=first(self.min_p, defaults.min_p, 0.0),
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=first(self.repetition_penalty, defaults.repetition_penalty, 1.0),
            seed=secrets.randbits(64) if self.seed is None else self.seed % 2**64,
            ignore_eos=self.ignore_eos,
            stop_token_ids=list(self.stop_token_ids),
            logit_bias=self.logit_bias,
            allowed_token_ids=None if self.allowed_token_ids is None else list(self.allowed_token_ids),
            logprobs=self.logprobs,
        )

    def text_params(self) -> TextParams:
        return TextParams(
            stop=[self.stop] if isinstance(self.stop, str) else list(self.stop),
            include_stop_str_in_output=self.include_stop_str_in_output,
            skip_special_tokens=self.skip_special_tokens,
            bad_words=list(self.bad_words),
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
