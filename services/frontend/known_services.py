"""What a frontend knows of all services, read off the reports that reach it.

Each tokenizer's report brings along those it hears from, down to the workers and across to sibling
frontends. Used by operations.py for readiness, status and metrics. Knows no sockets.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec

from quire.shared.messages import ModelCard, Report

from .counter_ledger import CounterLedger

_DEPTH = {"worker": 0, "engine": 1, "tokenizer": 2, "frontend": 3}
"""From the bottom of the chain: what is lowest is what everyone above waits for."""
_FORGET_SECONDS = 30.0


class _Seen(msgspec.Struct):
    report: Report
    changed: float
    """Monotonic time at which this report was first seen."""


class KnownServices:
    """The newest report of each service by name; those silent for long are forgotten."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self.ledger = CounterLedger()

    def hear(self, report: Report) -> None:
        """Take in a report and all it brings along."""
        now = time.monotonic()
        for one in _flatten(report):
            seen = self._seen.get(one.name)
            newest = None if seen is None else (seen.report.incarnation, seen.report.sequence)
            if newest is None or (one.incarnation, one.sequence) > newest:
                self._seen[one.name] = _Seen(one, now)
                self.ledger.hear(one)

    def forget(self, name: str) -> None:
        self._seen.pop(name, None)

    def sweep(self) -> None:
        """Forget who has said nothing new for long."""
        limit = time.monotonic() - _FORGET_SECONDS
        for name in [name for name, seen in self._seen.items() if seen.changed < limit]:
            del self._seen[name]

    def ages(self) -> dict[str, float]:
        """Seconds since each service last said something new."""
        now = time.monotonic()
        return {name: now - seen.changed for name, seen in self._seen.items()}

    @property
    def reports(self) -> list[Report]:
        """From the bottom of the chain to its top."""
        found = (seen.report for seen in self._seen.values())
        return sorted(found, key=lambda report: (_DEPTH.get(kind_of(report), 9), report.name))

    @property
    def frontends(self) -> list[Report]:
        """By name."""
        return [report for report in self.reports if kind_of(report) == "frontend"]

    @property
    def awaited(self) -> Report | None:
        """The lowest service that is not ready: what everyone waits for."""
        return next((report for report in self.reports if report.state != "ready"), None)


def kind_of(report: Report) -> str:
    return report.name.partition("-")[0]


def card_in(report: Report) -> ModelCard | None:
    """The model card of a report, or of one it brings along."""
    return next((one.card for one in _flatten(report) if one.card is not None), None)


def _flatten(report: Report) -> Iterable[Report]:
    yield report
    for below in report.known:
        yield from _flatten(below)


def as_json(report: Report, age_seconds: float) -> dict[str, Any]:
    """A report as /status shows it."""
    shown: dict[str, Any] = {
        "name": report.name,
        "pid": report.pid,
        "kind": kind_of(report),
        "state": report.state,
        "detail": report.detail,
        "progress": round(report.progress, 3),
        "steps": report.steps,
        "age_seconds": round(age_seconds, 3),
    }
    if report.memory_plan:
        shown["memory_plan"] = [{"what": what, "bytes": size} for what, size in report.memory_plan]
    return shown
