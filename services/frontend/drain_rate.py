"""The drain rate: how much leaves in a second, of late, and so when there will be room again.

Fed by admission.py, from which `Retry-After` comes. Time in which nothing was held does not count: an
idle night must not look like a jam. Knows neither requests nor tokens.
"""

from __future__ import annotations

import math

_MEMORY_SECONDS = 10.0
MAX_RETRY_SECONDS = 60


class DrainRate:
    """An average that forgets; times are monotonic seconds."""

    __slots__ = ("_at", "_busy_seconds", "_faded")

    def __init__(self) -> None:
        self._at = 0.0
        self._busy_seconds = 0.0
        self._faded = 0.0
        """What has left, each unit worth less with every second since."""

    def start(self, now: float) -> None:
        """Something is held again after nothing was."""
        self._at = now

    def leave(self, amount: float, now: float) -> None:
        self._pass_to(now)
        self._faded += amount

    def per_second(self, now: float) -> float:
        self._pass_to(now)
        remembered = _MEMORY_SECONDS * (1 - math.exp(-self._busy_seconds / _MEMORY_SECONDS))
        return self._faded / remembered if remembered > 0 else 0.0

    def retry_seconds(self, amount: float, now: float) -> int:
        """When `amount` will have left: whole seconds, 1 to MAX_RETRY_SECONDS.

        Where nothing has left yet, it takes as long again as it has taken so far.
        """
        rate = self.per_second(now)
        seconds = amount / rate if rate > 0 else self._busy_seconds
        return max(1, min(MAX_RETRY_SECONDS, math.ceil(min(seconds, MAX_RETRY_SECONDS))))

    def _pass_to(self, now: float) -> None:
        passed = max(0.0, now - (self._at or now))
        self._at = now
        self._busy_seconds += passed
        self._faded *= math.exp(-passed / _MEMORY_SECONDS)
