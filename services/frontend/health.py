"""Health: whether the chain below makes progress, and if not what it waits for.

Existence is not enough: a service that has been silent for longer than the stall limit, or an engine whose
step does not end, is as bad as one that is gone. Read off the reports; knows no sockets and no HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping

from quire.shared.messages import Report

from .known_services import KnownServices, kind_of

_STALLED_SAMPLE = "quire_engine_last_step_age_seconds"
"""The engine's: how long the step under way has been waited for."""
_NEEDED = ("worker", "engine", "tokenizer")
"""Kinds of which one group must be sound. Frontends answer for themselves."""
_BUSY_FACTOR = 10.0
"""A worker in a long step is silent; its engine, which waits for it, is not."""
_RELAY_SECONDS = 1.0
"""How often tokenizers report, and tell what they hear of an engine: one of its reports may just miss one of theirs."""


class Health:
    """What keeps the server from working, beside what is simply not there. limit_seconds 0: silence is no sign."""

    def __init__(self, known: KnownServices, limit_seconds: float) -> None:
        self._known = known
        self._limit = limit_seconds
        self.outages: Mapping[str, str] = {}
        """Services that stay down, by the launcher's word, and why."""
        self.restarts: Mapping[str, int] = {}
        """How often it has started each again that was lost."""

    @property
    def trouble(self) -> str:
        """A sentence; empty when every kind of service below has one that makes progress."""
        ages = self._known.ages()
        words: dict[str, dict[str, str]] = {kind: {} for kind in _NEEDED}
        """By kind and group: what is wrong with it, or nothing."""
        for name, cause in self.outages.items():
            if (kind := name.partition("-")[0]) in words:
                words[kind][_group(name)] = f"{name} stays down: {cause}"
        for report in self._known.reports:
            name, kind = report.name, kind_of(report)
            if kind not in words or name in self.outages:  # an outage's report is its last words
                continue
            word = self._complaint(kind, report, ages.get(name, 0.0))
            words[kind][_group(name)] = words[kind].get(_group(name)) or word
        for groups in words.values():
            if groups and all(groups.values()):
                return next(iter(groups.values()))
        return ""

    def _complaint(self, kind: str, report: Report, age: float) -> str:
        if not self._limit:
            return ""
        limit = self._limit * (_BUSY_FACTOR if kind == "worker" else 1.0)
        if kind != "tokenizer":
            limit += _RELAY_SECONDS
        if age > limit:
            return f"{report.name} has said nothing for {age:.0f} s"
        stalled = report.samples.get(_STALLED_SAMPLE, 0.0)
        if stalled > self._limit * _BUSY_FACTOR:
            return f"a step of {report.name} has not ended for {stalled:.0f} s"
        return ""


def _group(name: str) -> str:
    """What fails as one: the workers of an engine, or a service by itself."""
    return name.rpartition("-")[0] if name.startswith("worker-") else name
