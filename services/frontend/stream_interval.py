"""stream_interval: an answer whose chunks hold at least so many tokens each, but for a choice's first and last.

Stands before the answer that writes the chunks: what comes between is kept, and merged as for a slow reader.
Knows no JSON.
"""

from __future__ import annotations

from quire.shared.errors import ApiError

from .answers import Answer
from .mailbox import Delta


class Intervals:
    """An Answer of another one's chunks. The first tokens of a choice go out at once."""

    def __init__(self, answer: Answer, tokens_per_chunk: int) -> None:
        self._answer = answer
        self._tokens_per_chunk = tokens_per_chunk
        self._held: dict[int, Delta | None] = {}
        """By choice, once it has begun."""

    @property
    def done(self) -> bytes:
        return self._answer.done

    @property
    def keep_alive(self) -> bytes:
        return self._answer.keep_alive

    def opening(self) -> bytes:
        return self._answer.opening()

    def chunks(self, delta: Delta) -> bytes:
        index = delta.index
        is_first = index not in self._held and delta.count > 0
        held = self._held.get(index)
        if held is not None:
            held.merge(delta)
            delta = held
        if is_first or delta.finish_reason is not None or delta.count >= self._tokens_per_chunk:
            self._held[index] = None
            return self._answer.chunks(delta)
        self._held[index] = delta
        return b""

    def closing(self) -> bytes:
        return self._answer.closing()

    def failed(self, error: ApiError) -> bytes:
        """Behind what is still held: nothing that was generated is lost."""
        held = b"".join([self._answer.chunks(delta) for delta in self._held.values() if delta is not None])
        return held + self._answer.failed(error)

    def whole(self, choices: list[Delta]) -> bytes:
        return self._answer.whole(choices)
