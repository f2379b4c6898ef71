"""What all services have counted, those that are gone included, so that no sum in /metrics ever goes back.

A service that is started again counts from zero. What it counted before is kept here: from its own reports, and,
for a frontend that was not there then, from the launcher (`Departed`). Knows reports, no links.
"""

from __future__ import annotations

import msgspec

from quire.shared.messages import Departed, Report
from quire.shared.metrics import cumulative, merge


class _Past(msgspec.Struct):
    """Of all incarnations of a name up to this one."""

    incarnation: int = 0
    samples: dict[str, float] = {}


class CounterLedger:
    def __init__(self) -> None:
        self._past: dict[str, _Past] = {}
        self._last: dict[str, Report] = {}
        """The latest report of each name; it stays when the service is gone, until the past has it."""
        self.is_complete = False
        """Whether the launcher has told of all that was before."""

    def hear(self, report: Report) -> None:
        last = self._last.get(report.name)
        if last is not None:
            if (report.incarnation, report.sequence) <= (last.incarnation, last.sequence):
                return
            if report.incarnation > last.incarnation:
                self._enter(report.name, last.incarnation, {})
        past = self._past.get(report.name)
        if past is None or report.incarnation > past.incarnation:
            self._last[report.name] = report

    def depart(self, departed: Departed) -> None:
        self._enter(departed.name, departed.incarnation, departed.samples)

    def _enter(self, name: str, incarnation: int, told: dict[str, float]) -> None:
        """All up to this incarnation is past: as we were told, or as we have heard if that is more."""
        past = self._past.get(name, _Past())
        if incarnation < past.incarnation:
            return
        heard, last = past.samples, self._last.get(name)
        if last is not None and last.incarnation <= incarnation:
            heard = merge([heard, cumulative(last.samples)])
            del self._last[name]
        both = {sample: max(heard.get(sample, 0.0), told.get(sample, 0.0)) for sample in heard.keys() | told.keys()}
        self._past[name] = _Past(incarnation, both)

    def samples(self) -> dict[str, float]:
        """Sums over all services there are and were."""
        here = (cumulative(report.samples) for report in self._last.values())
        return merge([*(past.samples for past in self._past.values()), *here])
