"""An ordered stop: top-down, each kind of service once the one above it is gone.

So frontends finish what runs while everything below them still works.
"""

from __future__ import annotations

from collections.abc import Mapping

from .child import Child
from .topology import KINDS

_LOWER_SECONDS = 5.0
"""For the services below the frontends: with nobody above them they have nothing left to finish."""


class Shutdown:
    """A stop under way; `advance` it until there are no children left."""

    def __init__(self, drain_seconds: float) -> None:
        self._drain_seconds = drain_seconds
        self._kinds = list(KINDS)
        self._deadline: float | None = None

    def advance(self, children: Mapping[str, Child], now: float) -> None:
        """Ask the next kind to stop when the one before is gone; kill what is over its time."""
        while self._kinds:
            stage = [child for child in children.values() if child.kind == self._kinds[0]]
            if not stage:
                self._kinds.pop(0)
                self._deadline = None
                continue
            if self._deadline is None:
                self._deadline = now + (self._drain_seconds if self._kinds[0] == KINDS[0] else _LOWER_SECONDS)
            for child in stage:
                if not child.is_stopping:
                    child.ask_to_stop()
                if now >= self._deadline:
                    child.kill()
            return

    def seconds_left(self, now: float) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - now)
