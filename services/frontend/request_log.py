"""One log line for each generation request, at its end: who, what, how much, how long. Never a prompt.

Filled along the way of a request (generation.py), written by app.py. Requests refused at the door are
counted, and told once a second, so that a storm of them costs no lines.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import msgspec

from quire.shared.errors import RATE_LIMIT_EXCEEDED, SERVER_OVERLOADED, SERVICE_UNAVAILABLE

_AT_THE_DOOR = (RATE_LIMIT_EXCEEDED.code, SERVER_OVERLOADED.code, SERVICE_UNAVAILABLE.code)

logger = logging.getLogger("quire.frontend")


class RequestFacts(msgspec.Struct):
    """What is told of a request. Times are Unix seconds; 0: it did not come to that."""

    arrival: float
    request_id: str
    """The client's X-Request-Id, or ours."""
    operation: str
    """chat | text_completion."""
    path: str
    key: str = ""
    """A short hash of the API key."""
    id: str = ""
    """Of the answer."""
    model: str = ""
    is_streamed: bool = False
    num_choices: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    queue_seconds: float = 0.0
    first_token_at: float = 0.0
    ended_at: float = 0.0
    finish_reasons: list[str] = []
    outcome: str = "ok"
    """ok | client_gone | slow_reader | the code of an error."""
    status: int = 0
    """HTTP; 499 when the client has gone before its headers were sent."""

    @property
    def seconds(self) -> float:
        return max(0.0, self.ended_at - self.arrival)

    @property
    def first_token_seconds(self) -> float | None:
        return max(0.0, self.first_token_at - self.arrival) if self.first_token_at else None

    def as_fields(self) -> dict[str, Any]:
        """For a JSON line."""
        first = self.first_token_seconds
        return {
            "event": "request",
            "request_id": self.request_id,
            "id": self.id,
            "key": self.key,
            "path": self.path,
            "model": self.model,
            "stream": self.is_streamed,
            "choices": self.num_choices,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "queue_seconds": round(self.queue_seconds, 6),
            "first_token_seconds": None if first is None else round(first, 6),
            "seconds": round(self.seconds, 6),
            "finish_reasons": self.finish_reasons,
            "status": self.status,
            "outcome": self.outcome,
        }

    def as_sentence(self) -> str:
        first = self.first_token_seconds
        parts = [
            f"{self.id or self.path} {self.status} {self.outcome} after {self.seconds:.3f} s",
            f"{self.prompt_tokens} prompt tokens ({self.cached_tokens} cached), {self.output_tokens} output tokens",
            f"first after {first:.3f} s" if first is not None else "no first token",
            ",".join(self.finish_reasons) or "no end",
            f"request id {self.request_id}" + (f", key {self.key}" if self.key else ""),
        ]
        return "; ".join(parts)


class RequestLog:
    """`write` at the end of a request, `look` about once a second."""

    def __init__(self) -> None:
        self._refused: Counter[str] = Counter()

    def write(self, facts: RequestFacts) -> bool:
        """Whether it is told by itself."""
        if not facts.id and facts.outcome in _AT_THE_DOOR:
            self.count_refused(facts.outcome)
            return False
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s", facts.as_sentence(), extra={"fields": facts.as_fields()})
        return True

    def count_refused(self, code: str) -> None:
        """At the door, where there are no facts to write."""
        self._refused[code] += 1

    def look(self) -> None:
        """Tell of those that were refused since the last time."""
        if not self._refused:
            return
        refused, self._refused = self._refused, Counter()
        shown = ", ".join(f"{count} {code}" for code, count in sorted(refused.items()))
        fields = {"event": "refused", "refused": dict(refused)}
        logger.warning("requests refused at the door: %s", shown, extra={"fields": fields})
