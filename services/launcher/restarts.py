"""The restarts to come, how many there were, and the services that are not started again.

Kept by the supervisor; when and whether is the crash policy's to decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from .topology import ServiceSpec


class Restarts:
    """True while there is one to come. `start` starts a service, once it is no longer `is_held`."""

    def __init__(
        self, start: Callable[[ServiceSpec], None], is_held: Callable[[ServiceSpec], bool] = lambda spec: False
    ) -> None:
        self._start = start
        self._is_held = is_held
        self._due: list[tuple[float, ServiceSpec]] = []
        self.given_up: dict[str, str] = {}
        """Name -> why it stays down."""
        self.counts: Counter[str] = Counter()
        """Name -> how often it was lost and is started again."""

    def __bool__(self) -> bool:
        return bool(self._due)

    @property
    def cause(self) -> str:
        """Why the server is not whole; empty when it is."""
        return next(iter(self.given_up.values()), "")

    def add(self, spec: ServiceSpec, when: float) -> None:
        """`when`: monotonic seconds."""
        self._due.append((when, spec))
        self.counts[spec.name] += 1

    def give_up(self, name: str, cause: str) -> None:
        self.given_up[name] = cause

    def advance(self, now: float) -> None:
        """Start what is due."""
        due = [one for one in self._due if one[0] <= now and not self._is_held(one[1])]
        if due:
            self._due = [one for one in self._due if one not in due]
            for _, spec in due:
                self._start(spec)

    def clear(self) -> None:
        self._due.clear()
