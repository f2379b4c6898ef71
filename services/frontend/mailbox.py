"""The mailbox of one HTTP request: where its deltas wait until its connection takes them.

Filled by tokenizer_client.py in a plain loop, emptied by the coroutine that owns the connection,
which sleeps on one future. Never full and never in the way: while the reader is slow, deltas merge.
Knows nothing of HTTP or JSON.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from quire.shared.errors import ApiError
from quire.shared.messages import Accepted, LogprobEntry

_UNMERGED = 8
"""Deltas of a choice (on average) that wait one by one: each becomes its own chunk."""

_MERGED_CHARACTERS = 65536
"""Of one delta: adding to a longer text would cost more than it saves."""


class Delta(msgspec.Struct, gc=False):
    """What is new of one choice."""

    index: int
    """Over all prompts of the HTTP request: prompt x n + choice."""
    text: str = ""
    count: int = 0
    """Tokens; may be more or fewer than the text shows, while a character is incomplete."""
    token_ids: bytes = b""
    """int32; only if the client wants them."""
    tokens: list[LogprobEntry] | None = None
    top: list[list[LogprobEntry]] | None = None
    """Parallel to tokens."""
    prompt_tokens: list[LogprobEntry] | None = None
    """The prompt but its first token, once, with choice 0 of the prompt."""
    prompt_top: list[list[LogprobEntry]] | None = None
    num_cached_tokens: int | None = None
    """With the first delta of a choice."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    output_ids: bytes = b""
    """int32, all of the choice, with its last delta; only if the mailbox wants them."""

    def merge(self, later: Delta) -> None:
        """Take in the delta that follows."""
        self.text += later.text
        self.count += later.count
        self.token_ids += later.token_ids
        if later.tokens is not None:
            self.tokens = (self.tokens or []) + later.tokens
            self.top = (self.top or []) + (later.top or [])
        if later.prompt_tokens is not None:
            self.prompt_tokens, self.prompt_top = later.prompt_tokens, later.prompt_top
        if later.num_cached_tokens is not None:
            self.num_cached_tokens = later.num_cached_tokens
        self.finish_reason = later.finish_reason
        self.stop_reason = later.stop_reason
        self.output_ids = later.output_ids


class Mailbox:
    """Of one HTTP request with `num_prompts` prompts and `num_choices` answers in all."""

    __slots__ = (
        "_failure", "_limit", "_loop", "_pending", "_tails", "_waiter", "accepted", "num_awaited", "num_begun_tokens",
        "on_begin", "queue_seconds", "sink", "wants_output_ids",
    )  # fmt: skip

    def __init__(self, num_prompts: int, num_choices: int, loop: asyncio.AbstractEventLoop) -> None:
        self.accepted: list[Accepted | None] = [None] * num_prompts
        self.num_awaited = num_prompts
        """Prompts that were neither accepted nor refused yet."""
        self._limit = _UNMERGED * num_choices
        self._loop = loop
        self._pending: list[Delta] = []
        self._tails: dict[int, Delta] = {}
        """Index -> its last pending delta; only while deltas merge."""
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self.wants_output_ids = False
        self.sink: Callable[[Delta], bool] | None = None
        """Takes a delta past the mailbox while its owner sleeps and nothing waits; False: it cannot now."""
        self.on_begin: Callable[[int], None] | None = None
        """Is told of the tokens of each prompt that begins to run."""
        self.num_begun_tokens = 0
        """Of prompts that have begun to run."""
        self.queue_seconds = 0.0
        """The longest that one of them has waited in the engine."""

    def accept(self, position: int, message: Accepted) -> None:
        """The prompt at that position was accepted."""
        if self.accepted[position] is None:
            self.accepted[position] = message
            self.num_awaited -= 1
            if self.num_awaited == 0:
                self.wake()

    def begin(self, position: int, queue_seconds: float) -> None:
        """The prompt at that position has begun to run."""
        self.queue_seconds = max(self.queue_seconds, queue_seconds)
        message = self.accepted[position]
        if message is not None:
            self.num_begun_tokens += message.num_prompt_tokens
            if self.on_begin is not None:
                self.on_begin(message.num_prompt_tokens)

    def deliver(self, delta: Delta, at_once: bool = False) -> None:
        """Add a delta; `at_once`: by the sink if that can take it."""
        pending = self._pending
        if at_once and self._waiter is not None and self.sink is not None and not pending and self.sink(delta):
            return
        if len(pending) < self._limit:
            pending.append(delta)
        else:
            self._merge(delta)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """End it for all choices; what was delivered before is still taken first. The first failure counts."""
        if self._failure is None:
            self._failure = error
            self.wake()

    def wake(self) -> None:
        """Have `take` return, if only with nothing."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def forget(self) -> None:
        """Its owner has ended. A failure that was raised refers to the frames it passed, and so to this mailbox."""
        self._failure = self.sink = self.on_begin = None

    @property
    def num_pending_bytes(self) -> int:
        """Of text, in UTF-8."""
        return sum(len(delta.text.encode()) for delta in self._pending)

    @property
    def num_pending_entries(self) -> int:
        """Tokens shown by logprobs, about: what merged deltas of a slow reader are heavy of."""
        shown = 0
        for delta in self._pending:
            if delta.tokens:
                shown += len(delta.tokens) * (1 + len(delta.top[0] if delta.top else ()))
        return shown

    async def settled(self) -> list[Accepted]:
        """Wait for every prompt's yes. Raises what it failed with: ApiError, or ClientGone."""
        while self.num_awaited and self._failure is None:
            waiter = self._waiter = self._loop.create_future()
            await waiter
        if self._failure is not None and self.num_awaited:
            raise self._failure
        return [accepted for accepted in self.accepted if accepted is not None]

    async def take(self) -> list[Delta]:
        """All deltas that wait, in order; at least one, or none when woken. Raises what it failed with."""
        if not self._pending and self._failure is None:
            waiter = self._waiter = self._loop.create_future()
            await waiter
        pending = self.take_now()
        if not pending and self._failure is not None:
            raise self._failure
        return pending

    def take_now(self) -> list[Delta]:
        """All deltas that wait, in order; may be none."""
        pending = self._pending
        if pending:
            self._pending = []
            if self._tails:
                self._tails = {}
        return pending

    def _merge(self, delta: Delta) -> None:
        tails = self._tails
        if not tails:
            tails.update((waiting.index, waiting) for waiting in self._pending)
        tail = tails.get(delta.index)
        if tail is None or len(tail.text) > _MERGED_CHARACTERS:
            self._pending.append(delta)
            tails[delta.index] = delta
        else:
            tail.merge(delta)


class ClientGone(Exception):
    """The client has closed its connection, or reads nothing: nobody waits for an answer."""


class AnswerFailed(ApiError):
    """The answer cannot be completed."""
