"""When the helper process for clients' programs is started: ahead of its first need, while nobody waits.

Its start takes half a second of CPU, several on a busy machine, which the first request with a constraint would pay.
Polled by service.py; starts nothing itself.
"""

from __future__ import annotations

_MOST_PAUSES = 6.0
"""A server that is never idle for one pause has its helper after so many."""


class HelperAhead:
    """`is_due` says so once. pause_seconds 0: never, it is then started by who needs it."""

    def __init__(self, pause_seconds: float) -> None:
        self._pause = pause_seconds
        self._is_done = not pause_seconds
        self._ready_since = 0.0
        self._idle_since = 0.0

    def is_due(self, is_ready: bool, num_requests: int, now: float) -> bool:
        """Whether to start it now. `now`: monotonic seconds."""
        if self._is_done:
            return False
        if not is_ready:
            self._ready_since = self._idle_since = 0.0
            return False
        self._ready_since = self._ready_since or now
        self._idle_since = (self._idle_since or now) if not num_requests else 0.0
        is_idle = bool(self._idle_since) and now - self._idle_since >= self._pause
        self._is_done = is_idle or now - self._ready_since >= self._pause * _MOST_PAUSES
        return self._is_done
