"""The logprobs of a response's text: which tokens are its own, and how they are shown.

A response without tools is reasoning, if the model does that, and then text; the token that ends reasoning is
between them. Fed with deltas, in the order of the answer. Knows no events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quire.shared.messages import LogprobEntry

from .answers import logprob_of
from .mailbox import Delta


class TextLogprobs:
    """`end_ids`: of the tokens that end reasoning."""

    def __init__(self, num_top: int | None, end_ids: Sequence[int]) -> None:
        self._num_top = num_top
        self._end_ids = end_ids
        self._pending: list[dict[str, Any]] = []
        self._ids: list[int] = []
        """Of the pending ones."""
        self._shown: list[dict[str, Any]] = []

    def feed(self, delta: Delta) -> None:
        if self._num_top is None:
            return
        for position, token in enumerate(delta.tokens or []):
            top = delta.top[position][: self._num_top] if delta.top and position < len(delta.top) else []
            self._pending.append({**_shown(token), "top_logprobs": [_shown(one) for one in top]})
            self._ids.append(token.token_id)

    def take(self, has_reasoned: bool) -> list[dict[str, Any]]:
        """Of the text that came since the last call."""
        if has_reasoned and not self._shown:
            ends = [place for place, token_id in enumerate(self._ids) if token_id in self._end_ids]
            self._pending = self._pending[ends[0] + 1 if ends else 0 :]
        taken, self._pending, self._ids = self._pending, [], []
        self._shown += taken
        return taken

    @property
    def all(self) -> list[dict[str, Any]]:
        """What was taken."""
        return self._shown


def in_event(logprobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As events have them: without the bytes that items have."""
    return [
        {**_without_bytes(one), "top_logprobs": [_without_bytes(top) for top in one["top_logprobs"]]}
        for one in logprobs
    ]


def _without_bytes(entry: dict[str, Any]) -> dict[str, Any]:
    return {"token": entry["token"], "logprob": entry["logprob"]}


def _shown(entry: LogprobEntry) -> dict[str, Any]:
    return {
        "token": entry.token.decode("utf-8", "replace"), "logprob": logprob_of(entry), "bytes": list(entry.token)
    }  # fmt: skip
