"""What this service reports upwards: its state, the model card, and the last reports of all it hears from.

Readiness climbs: ready when the tokenizer is loaded and an engine below is ready. Knows no requests
but their number.
"""

from __future__ import annotations

import time
from typing import Any

import msgspec

from quire.shared.messages import Report
from quire.shared.neighbours import Above
from quire.shared.service import Service

from .engine_client import Engines
from .model import Model
from .stats import Stats

REPORT_SECONDS = 1.0


class Reporting:
    """Publishes every second and whenever the state changes."""

    def __init__(self, service: Service[Any], above: Above, engines: Engines, stats: Stats) -> None:
        self._service = service
        self._above = above
        self._engines = engines
        self._stats = stats
        self._published = ("", "")
        self._next_report = 0.0
        self.model: Model | None = None
        self.is_draining = False
        self.num_requests = 0
        self.frontends: dict[str, Report] = {}
        """The latest report of each frontend, reflected so that every frontend knows of all."""

    @property
    def is_ready(self) -> bool:
        """As it was last said."""
        return self._published[0] == "ready"

    def poll(self) -> None:
        """To be called often; publishes when it is time."""
        if time.monotonic() >= self._next_report:
            self.publish()

    def publish_if_changed(self) -> None:
        if self._state()[:2] != self._published:
            self.publish()

    def publish(self) -> None:
        self._next_report = time.monotonic() + REPORT_SECONDS
        state, detail, progress = self._state()
        self._published = (state, detail)
        chosen = self._engines.choose()
        card = None if self.model is None or chosen is None else self.model.card(chosen[1])
        known: list[Report] = []
        for report in self._engines.reports:
            # Without its card: that one has no names yet, and readers take the first card they find.
            known += [msgspec.structs.replace(report, known=[], card=None), *report.known]
        known += self.frontends.values()
        samples = self._stats.samples(self.num_requests)
        steps = self._stats.steps
        self._above.publish(
            self._service.report(state, detail, progress, steps, samples=samples, card=card, known=known)
        )

    def _state(self) -> tuple[str, str, float]:
        """(state, what is awaited, progress of it)."""
        if self.is_draining:
            return "draining", "finishing what runs", 0.0
        if self.model is None:
            return "starting", "loading the tokenizer", 0.0
        if self._engines.choose() is not None:
            return "ready", "", 1.0
        for report in self._engines.reports:
            return "starting", f"{report.name}: {report.detail or report.state}", report.progress
        return "starting", "waiting for an engine", 0.0
