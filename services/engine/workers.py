"""The workers of this engine, as one: dialled, configured, sent plans, heard.

Every rank gets every plan; rank 0 answers. The group is ready when all ranks are, and lost when any is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from quire.shared.config import EngineConfig
from quire.shared.link import Client
from quire.shared.messages import Configure, FromWorker, Masks, Plan, Report, StepResult, WorkerReady
from quire.shared.neighbours import Below
from quire.shared.service import Service

logger = logging.getLogger("quire.engine.workers")


class Workers:
    """Calls `on_ready(facts)` when all can take plans, and `on_result`; when they no longer can,
    `on_lost(cause, reason)`, where the reason is `lost` or `moved`.
    """

    def __init__(
        self,
        service: Service[EngineConfig],
        configure: Configure,
        on_ready: Callable[[WorkerReady], None],
        on_result: Callable[[StepResult], None],
        on_lost: Callable[[str, str], None],
    ) -> None:
        self._configure = configure
        self._world_size = service.config.tensor_parallel_size
        self._on_ready = on_ready
        self._on_result = on_result
        self._on_lost = on_lost
        self._ready: dict[str, WorkerReady] = {}
        self._causes: dict[str, str] = {}
        self._configured: dict[str, int] = {}
        """The incarnation of each worker that was sent the configuration."""
        self.reports: dict[str, Report] = {}
        self.is_ready = False
        number = service.name.rpartition("-")[2]
        kind = f"worker-{number}"
        self._below: Below[FromWorker] = Below(
            service, kind, FromWorker, self._appear, self._vanish, service.config.workers
        )

    @property
    def links(self) -> list[Client[FromWorker]]:
        return list(self._below.dialled.values())

    @property
    def awaited(self) -> tuple[str, float]:
        """What is missing, in words, and the progress (0 to 1) of the slowest worker."""
        if not self.reports:
            return "waiting for a worker", 0.0
        slowest = min(self.reports.values(), key=lambda report: report.progress)
        return f"{slowest.name}: {slowest.detail}", slowest.progress

    def poll(self) -> None:
        """Dial who appeared, drop who is gone. About ten times a second."""
        self._below.poll()

    def receive(self) -> bool:
        """Handle all that has come; whether there was anything."""
        was_any = False
        for name, link in self._below.dialled.items():
            while (message := link.receive()) is not None:
                was_any = True
                self._handle(name, message)
        return was_any

    def send(self, message: Plan | Masks) -> None:
        for link in self._below.links.values():
            link.send(message)

    def _appear(self, name: str, link: Client[FromWorker]) -> None:
        """Nothing yet: a worker is configured when it is first heard, and again when it is another one."""

    def _vanish(self, name: str) -> None:
        self._configured.pop(name, None)
        self._ready.pop(name, None)
        self.reports.pop(name, None)
        cause = self._causes.pop(name, "")
        self._lose(f"{name} ended" + (f": {cause}" if cause else ""), "lost")

    def _lose(self, cause: str, reason: str) -> None:
        if self.is_ready:
            self.is_ready = False
            self._on_lost(cause, reason)

    def _handle(self, name: str, message: FromWorker) -> None:
        match message:
            case StepResult():
                self._on_result(message)
            case Report():
                self._below.hear(name, message)
                self.reports[name] = message
                if self._configured.get(name) != message.incarnation:
                    self._configured[name] = message.incarnation
                    self._below.dialled[name].send(self._configure)
                if message.state == "failed":
                    self._causes[name] = message.detail
                    logger.error("%s failed: %s", name, message.detail)
                elif message.state == "draining":
                    self._ready.pop(name, None)
                    self._lose(f"{name} leaves", "moved")
            case WorkerReady():
                self._ready[name] = message
                if len(self._ready) == self._world_size and not self.is_ready:
                    self.is_ready = True
                    facts = min(self._ready.values(), key=lambda ready: ready.num_blocks)
                    self._on_ready(facts)
