"""The restarts to come, and the services that are not started again.

Kept by the supervisor; when and whether is the crash policy's to decide.
"""

from __future__ import annotations

from collections.abc import Callable

from .topology import ServiceSpec


class Restarts:
    """True while there is one to come. `start` starts a service."""

    def __init__(self, start: Callable[[ServiceSpec], None]) -> None:
        self._start = start
        self._due: list[tuple[float, ServiceSpec]] = []
        self.given_up: dict[str, str] = {}
        """Name -> why it stays down."""

    def __bool__(self) -> bool:
        return bool(self._due)

    @property
    def cause(self) -> str:
        """Why the server is not whole; empty when it is."""
        return next(iter(self.given_up.values()), "")

    def add(self, spec: ServiceSpec, when: float) -> None:
        """`when`: monotonic seconds."""
        self._due.append((when, spec))

    def give_up(self, name: str, cause: str) -> None:
        self.given_up[name] = cause

    def advance(self, now: float) -> None:
        """Start what is due."""
        due = [spec for when, spec in self._due if when <= now]
        if due:
            self._due = [(when, spec) for when, spec in self._due if when > now]
            for spec in due:
                self._start(spec)

    def clear(self) -> None:
        self._due.clear()
