"""What both kinds of answers share: what was asked of the answer, the tally of tokens, logprobs as JSON.

chat.py and completions.py write their chunks and their plain answers with it. Both are made of the
same deltas, so that streamed and plain answers agree. Knows no connection.
"""

from __future__ import annotations

import array
import sys
from typing import Any, Protocol

import msgspec

from quire.shared.errors import ApiError
from quire.shared.messages import Accepted, LogprobEntry

from .choice_output import Parsing
from .mailbox import Delta

LOWEST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say."""

COMMENT = b": keep-alive\n\n"
"""What a stream carries while there is nothing to tell: no client sees it."""

_encoder = msgspec.json.Encoder()
encode = _encoder.encode


class Asked(msgspec.Struct):
    """What the client asked of the answer, and the constants of every chunk of it."""

    id: str
    model: str
    created: int
    fingerprint: str
    num_prompts: int
    n: int
    num_drawn: int
    """Answers that are run for each prompt; the best n of them are given."""
    has_usage: bool
    """Streams: a last chunk of usage, and `usage: null` in the others."""
    has_continuous_usage: bool
    logprobs: int | None
    has_prompt_logprobs: bool
    is_echoed: bool
    """Of text completions: the prompt stands before each answer."""
    is_scoring: bool
    """Only the prompt is wanted: the one token that was run for it is not shown."""
    writes_token_ids: bool
    """Tokens of logprobs are written token_id:N."""
    returns_token_ids: bool
    tokens_per_chunk: int = 1
    """Streams: of each choice, behind its first chunk."""
    echoed_text: str = ""
    """Of chats: stands before each answer."""
    parsing: Parsing | None = None
    """How reasoning and tool calls are told from text; None: all is text."""

    @property
    def num_choices(self) -> int:
        return self.num_prompts * self.n


class Tally:
    """Counts over all choices of an answer, as its deltas go by."""

    __slots__ = (
        "cached_tokens", "num_open", "output_tokens", "prompt_tokens", "reasoning_tokens", "reasons",
    )  # fmt: skip

    def __init__(self, asked: Asked, accepted: list[Accepted]) -> None:
        self.prompt_tokens = sum(one.num_prompt_tokens for one in accepted)
        self.output_tokens = 0
        self.cached_tokens = 0
        self.reasoning_tokens = 0
        self.num_open = asked.num_prompts * asked.num_drawn
        self.reasons: list[str] = []

    def add(self, delta: Delta, num_drawn: int) -> None:
        self.output_tokens += delta.count
        if delta.num_cached_tokens and delta.index % num_drawn == 0:
            self.cached_tokens += delta.num_cached_tokens  # the prompt is counted once, not per choice
        if delta.finish_reason is not None:
            self.num_open -= 1
            self.reasons.append(delta.finish_reason)

    def usage(self) -> bytes:
        """As JSON."""
        total = self.prompt_tokens + self.output_tokens
        counts = (self.prompt_tokens, self.output_tokens, total, self.cached_tokens, self.reasoning_tokens)
        return (
            b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d,'
            b'"prompt_tokens_details":{"cached_tokens":%d},'
            b'"completion_tokens_details":{"reasoning_tokens":%d}}' % counts
        )


class Answer(Protocol):
    """How an endpoint writes its answer."""

    def opening(self) -> bytes:
        """What precedes the first delta of a stream."""
        ...

    def chunks(self, delta: Delta) -> bytes:
        """The server-sent events that a delta makes; may be none. Its tally already has it."""
        ...

    def closing(self) -> bytes:
        """The usage chunk, if asked for."""
        ...

    @property
    def done(self) -> bytes:
        """What ends a stream, behind everything."""
        ...

    @property
    def keep_alive(self) -> bytes:
        """What a stream carries while there is nothing to tell."""
        ...

    def failed(self, error: ApiError) -> bytes:
        """How a stream that has begun says that it failed, and ends."""
        ...

    def whole(self, choices: list[Delta]) -> bytes:
        """The plain answer of completed choices, each merged into one delta, in order."""
        ...


class OpenAiEvents:
    """How streams of chat and text completions end."""

    done = b"data: [DONE]\n\n"
    keep_alive = COMMENT

    def failed(self, error: ApiError) -> bytes:
        return b"data: " + error.envelope() + b"\n\n" + self.done


def start_of_chunk(asked: Asked, kind: str) -> bytes:
    """The bytes of every chunk of an answer up to its choices."""
    return b'data: {"id":%b,"object":%b,"created":%d,"model":%b,"system_fingerprint":%b,"choices":[' % (
        encode(asked.id), encode(kind), asked.created, encode(asked.model), encode(asked.fingerprint)
    )  # fmt: skip


def scored(delta: Delta) -> Delta:
    """A delta of a request that only scores its prompt: its token is not shown."""
    reason = None if delta.finish_reason is None else "length"
    return msgspec.structs.replace(
        delta, text="", count=0, token_ids=b"", tokens=None, top=None, finish_reason=reason, stop_reason=None
    )


def ids_of(packed: bytes) -> list[int]:
    """Token ids from their little-endian int32 bytes."""
    ids = array.array("i", packed)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()


def token_text(entry: LogprobEntry, writes_token_ids: bool) -> str:
    return f"token_id:{entry.token_id}" if writes_token_ids else entry.token.decode("utf-8", "replace")


def logprob_of(entry: LogprobEntry) -> float:
    return entry.logprob if entry.logprob > LOWEST_LOGPROB else LOWEST_LOGPROB  # also for NaN


def prompt_logprobs_json(
    tokens: list[LogprobEntry] | None, top: list[list[LogprobEntry]] | None
) -> list[dict[str, Any] | None] | None:
    """vLLM's prompt_logprobs: null for the first token, then {token id: entry} with the token itself among them."""
    if tokens is None:
        return None
    found: list[dict[str, Any] | None] = [None]
    for position, token in enumerate(tokens):
        entries = [token, *(top[position] if top and position < len(top) else [])]
        shown: dict[str, Any] = {}
        for entry in entries:
            text = entry.token.decode("utf-8", "replace")
            value = {"logprob": logprob_of(entry), "rank": entry.rank, "decoded_token": text}
            shown.setdefault(str(entry.token_id), value)
        found.append(shown)
    return found
