"""The running frontend: the HTTP server, the clock that drives everything periodic, the way it ends.

Started by service.py with its port already bound. Wires application, links and uvicorn together.
Knows no request.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import signal
import socket
import sys
from collections.abc import Generator

import uvicorn
import uvloop

from quire.shared.config import FrontendConfig
from quire.shared.errors import SERVICE_UNAVAILABLE
from quire.shared.link import Reader
from quire.shared.messages import Departed, Hello, Look, Outages, ToFrontendFromOperator
from quire.shared.metrics import Metrics
from quire.shared.neighbours import POLL_SECONDS, Above
from quire.shared.service import Service

from .app import Application
from .authentication import Keys
from .body_parsing import SWITCH_SECONDS
from .early_refusal import EarlyRefusals
from .frozen_launcher import FrozenLauncher
from .http_connection import HttpConnection
from .listener import Listener
from .mailbox import AnswerFailed
from .parting import Parting

logger = logging.getLogger("quire.frontend")

_REPORT_SECONDS = 1.0
_JOIN_SECONDS = 10.0
_CLOSE_SECONDS = 2
"""For answers that were cut off to reach their clients."""


class _HttpServer(uvicorn.Server):
    """uvicorn with our listener, and without its signal handlers: ours drain first."""

    def __init__(self, config: uvicorn.Config, listener: Listener, app: Application) -> None:
        super().__init__(config)
        self._listener = listener
        self._limits = app.config
        self._early = EarlyRefusals(app)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await self.lifespan.startup()
        loop = asyncio.get_running_loop()
        make = functools.partial(
            HttpConnection,
            self._limits,
            self._listener,
            self._early,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=loop,
        )
        self.servers = [self._listener]  # type: ignore[list-item]
        self._listener.open(make)
        self.started = True

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


class Frontend:
    """One frontend process. `run` returns when it has been told to stop and has."""

    def __init__(self, service: Service[FrontendConfig], sock: socket.socket, keys: Keys) -> None:
        self._service = service
        self._config = service.config
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        metrics = Metrics()
        metrics.prepare("frontend")
        self._listener = Listener(sock, service.config, metrics, self._loop)
        self._app = Application(service, metrics, self._loop, keys, self._listener)
        self._app.report = self._report
        self._link = service.listen(ToFrontendFromOperator)
        self._above = Above(self._link, service, on_vanish=lambda name: None)
        self._reader = Reader(self._link, self._from_operator, self._loop)
        self._http = _HttpServer(_uvicorn_config(self._app), self._listener, self._app)
        self._frozen_launcher = FrozenLauncher(self._config.parent_pid, self._config.stall_limit)
        self._is_stopping = False
        self._parting: Parting | None = None
        self._state = ""
        self._lag = 0.0

    async def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        self._loop.add_signal_handler(signal.SIGUSR2, self._leave)
        clock = self._loop.create_task(self._tick())
        try:
            if self._config.is_joining:
                await self._until_ready()
            await self._http.serve(sockets=[self._socket])
            self._app.siblings.bequeath(self._app.responses.take_all())
            self._report()  # what it has counted since the last one
        finally:
            clock.cancel()
            self._reader.close()
            self._app.client.close()
            self._link.close()
            self._app.parser.close()
            if self._app.spans is not None:
                self._app.spans.close()

    async def _until_ready(self) -> None:
        """For some seconds at most: a sibling that never gets ready must say so too."""
        deadline = self._loop.time() + _JOIN_SECONDS
        ledger = self._app.client.known.ledger
        while not self._is_stopping and self._loop.time() < deadline:
            if self._app.is_ready and ledger.is_complete:
                return
            await asyncio.sleep(0.01)

    def _from_operator(self, received: tuple[str, ToFrontendFromOperator]) -> None:
        peer, message = received
        match message:
            case Hello():
                self._above.hear(peer, message)
            case Look():
                self._app.client.poll()
            case Outages():
                self._app.health.outages, self._app.health.restarts = message.causes, message.restarts
                self._app.client.known.ledger.is_complete = True
            case Departed():
                self._app.client.known.ledger.depart(message)

    @property
    def url(self) -> str:
        host, port = self._socket.getsockname()[:2]
        return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def _tick(self) -> None:
        """Everything periodic: who is there, reports, quiet and stalled streams, the loop's lag."""
        gc.collect()
        gc.freeze()
        next_report = next_look = 0.0
        while True:
            now = self._loop.time()
            try:
                self._app.client.poll()
                self._above.poll()
                self._frozen_launcher.look(now)
                if now >= next_look:
                    next_look = now + self._app.watchdog.interval_seconds
                    self._app.watchdog.look()
                    self._listener.look()
                if now >= next_report or self._current_state() != self._state:
                    next_report = now + _REPORT_SECONDS
                    self._report()
            except Exception:
                logger.exception("a periodic task failed")
            asleep = self._loop.time()
            await asyncio.sleep(POLL_SECONDS)
            self._lag = max(self._lag, self._loop.time() - asleep - POLL_SECONDS)

    def _current_state(self) -> str:
        if self._app.admission.is_draining or self._parting is not None:
            return "draining"
        return "ready" if self._app.is_ready and self._http.started else "starting"

    def _report(self) -> None:
        known = self._app.client.known
        state = self._current_state()
        if state != self._state:
            logger.info("%s%s", state, f" at {self.url}" if state == "ready" else f": {self._detail(state)}")
        self._state = state
        self._app.request_log.look()
        self._app.metrics.gauge("quire_event_loop_lag_seconds").set(self._lag)
        self._lag = 0.0
        known.sweep()
        awaited = known.awaited
        report = self._service.report(
            state,
            detail=self._detail(state),
            progress=0.0 if awaited is None or state == "ready" else awaited.progress,
            steps=self._http.server_state.total_requests,
            samples=self._app.samples(),
            card=self._app.client.card,
        )
        known.ledger.hear(report)
        self._app.client.publish(report)
        self._above.publish(report)

    def _detail(self, state: str) -> str:
        if state == "ready":
            return self.url
        return "others go on" if self._parting is not None else self._app.waiting_for

    def _on_signal(self) -> None:
        if self._is_stopping:
            logger.info("stopping now")
            self._end_requests()
            self._http.should_exit = True
            self._http.force_exit = True
            return
        self._is_stopping = True
        if self._parting is not None:
            self._parting.stop()
        self._loop.create_task(self._drain())

    def _leave(self) -> None:
        """Others have the port, and go on."""
        if self._parting is None and not self._is_stopping:
            self._parting = Parting(self._app, self._listener)
            self._parting_task = self._loop.create_task(self._part(self._parting))

    async def _part(self, parting: Parting) -> None:
        self._report()
        if await parting.run(self._config.shutdown_timeout) and not self._is_stopping:
            self._on_signal()

    async def _drain(self) -> None:
        """Take nothing new, let what runs finish, end the rest."""
        self._app.admission.is_draining = True
        self._report()
        deadline = self._loop.time() + self._config.shutdown_timeout
        while self._app.admission.num_in_flight and self._loop.time() < deadline and not self._http.should_exit:
            await asyncio.sleep(0.02)
        if self._app.admission.num_in_flight:
            logger.warning("%d requests are ended: --shutdown-timeout is over", self._app.admission.num_in_flight)
            self._end_requests()
        self._http.should_exit = True

    def _end_requests(self) -> None:
        message = "The server is shutting down; please send the request again."
        self._app.client.fail_all(AnswerFailed(SERVICE_UNAVAILABLE, message, retry_after_seconds=1), "shutdown")


def _uvicorn_config(app: Application) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        ws="none",
        loop="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=app.config.idle_timeout,  # type: ignore[arg-type]
        timeout_graceful_shutdown=_CLOSE_SECONDS,
    )


def run(service: Service[FrontendConfig], sock: socket.socket, keys: Keys) -> None:
    """Serve until told to stop."""
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # the application answers and logs its own errors

    sys.setswitchinterval(SWITCH_SECONDS)

    async def main() -> None:
        await Frontend(service, sock, keys).run()

    uvloop.run(main())
