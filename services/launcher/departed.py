"""What services that have ended had counted: told to frontends, so that their sums go on where they were.

By name, over all that had it. Held by the launcher's links, which hear every report.
"""

from __future__ import annotations

from quire.shared.messages import Departed, Report
from quire.shared.metrics import cumulative, merge


class DepartedCounts:
    def __init__(self) -> None:
        self._last: dict[str, Report] = {}
        self._by_name: dict[str, Departed] = {}

    def hear(self, report: Report) -> None:
        self._last[report.name] = report

    def add(self, name: str) -> Departed | None:
        """The service of that name has ended; None: it never said anything."""
        last = self._last.pop(name, None)
        if last is None:
            return None
        before = self._by_name.get(name)
        samples = merge([{} if before is None else before.samples, cumulative(last.samples)])
        departed = self._by_name[name] = Departed(name, last.incarnation, samples)
        return departed

    @property
    def all(self) -> list[Departed]:
        return list(self._by_name.values())
