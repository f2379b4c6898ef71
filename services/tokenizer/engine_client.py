"""The engines below: which are there, how they are, and which one a new request goes to.

A request sticks to the engine it was given. The owner is told of every message and of every engine
that can no longer finish what it has: gone, restarted, or failed. Knows no request but by number.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from quire.shared.link import Client, Reader
from quire.shared.messages import Abort, ModelCard, Report, Submit, ToTokenizerFromEngine, Vocabulary
from quire.shared.neighbours import Below
from quire.shared.service import Service


class _Engine(msgspec.Struct):
    client: Client[Any]
    reader: Reader
    report: Report | None = None
    num_requests: int = 0


class Engines:
    """Dials every engine there is. `on_message(name, message)` gets all but nothing of an engine that is gone."""

    def __init__(
        self,
        service: Service[Any],
        addresses: tuple[str, ...],
        on_message: Callable[[str, Any], None],
        on_lost: Callable[[str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._on_message = on_message
        self._on_lost = on_lost
        self._loop = loop
        self._engines: dict[str, _Engine] = {}
        self._below: Below[Any] = Below(service, "engine", ToTokenizerFromEngine, self._appear, self._vanish, addresses)

    def poll(self) -> None:
        """Find who came and who went; to be called about ten times a second."""
        self._below.poll()

    def _appear(self, name: str, client: Client[Any]) -> None:
        def deliver(message: Any) -> None:
            self._receive(name, message)

        self._engines[name] = _Engine(client, Reader(client, deliver, self._loop))

    def _vanish(self, name: str) -> None:
        engine = self._engines.get(name)
        if engine is None:
            return
        if name not in self._below.links:
            engine.report = None
        if not self._is_remote(name):
            engine.reader.close()
            del self._engines[name]
        self._on_lost(name)

    def _is_remote(self, name: str) -> bool:
        """Dialled by address: its link stays and comes back by itself."""
        return "://" in name

    def _receive(self, name: str, message: Any) -> None:
        if isinstance(message, Report):
            self._below.hear(name, message)
            engine = self._engines.get(name)
            if engine is None:
                return
            was_failed = engine.report is not None and engine.report.state == "failed"
            engine.report = message
            if message.state == "failed" and not was_failed:
                self._on_lost(name)
        self._on_message(name, message)

    def choose(self) -> tuple[str, ModelCard] | None:
        """The ready engine with the fewest of our requests, and its card; None when none is ready."""
        best: tuple[str, ModelCard] | None = None
        fewest = 0
        for name, engine in self._engines.items():
            report = engine.report
            if report is None or report.state != "ready" or report.card is None:
                continue
            if best is None or engine.num_requests < fewest:
                best, fewest = (name, report.card), engine.num_requests
        return best

    def count(self, name: str, change: int) -> None:
        """Note that one of our requests was given to an engine (+1), or has ended there (-1)."""
        engine = self._engines.get(name)
        if engine is not None:
            engine.num_requests = max(0, engine.num_requests + change)

    def send(self, name: str, message: Submit | Abort | Vocabulary) -> None:
        """Nothing happens when the engine is gone: its requests have been ended."""
        engine = self._engines.get(name)
        if engine is not None:
            engine.client.send(message)

    def report_of(self, name: str) -> Report | None:
        """The latest of one engine."""
        engine = self._engines.get(name)
        return engine.report if engine is not None else None

    @property
    def reports(self) -> list[Report]:
        """The latest of each engine."""
        return [engine.report for engine in self._engines.values() if engine.report is not None]

    def close(self) -> None:
        for engine in self._engines.values():
            engine.reader.close()
        self._engines.clear()
        self._below.close()
