"""The supervisor: starts a deployment's processes, watches them, stops them in order.

One loop over pidfds, the children's output, and the launcher's links. What a death means is the
crash policy's to decide, what a person sees is the observer's to print; neither is known here.
Imports no service.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from quire.shared.config import LauncherConfig
from quire.shared.messages import Done, Outages, Replace, Report, Scale
from quire.shared.run_directory import NameTakenError

from .child import Child, Ending
from .control_link import ControlLink
from .crash_policy import CrashPolicy, GiveUp, Loss, Restart, StayDown, StopAll, StopOnLoss
from .groups import Groups
from .operator_commands import OperatorCommands
from .restarts import Restarts
from .shutdown import Shutdown
from .topology import ServiceSpec
from .watchdog import Watchdog

_POLL_SECONDS = 0.1
_STARTING_POLL_SECONDS = 0.02
_FAILED_SECONDS = 2.0
"""How long a service that reported failed may take to end by itself."""
_MARGIN_SECONDS = 2.0
"""On top of the time that services give their own requests: to end the rest with a clean event."""
_CRASH_DRAIN_SECONDS = 3.0
"""For frontends to end their streams with an error once something below them is lost."""


class Observer(Protocol):
    """Who is told what happens."""

    def started(self, child: Child) -> None: ...
    def reported(self, child: Child, report: Report) -> None: ...
    def printed(self, child: Child, line: str) -> None: ...
    def ended(self, child: Child, ending: Ending, is_expected: bool) -> None: ...
    def gave_up(self, cause: str) -> None: ...
    def restarting(self, cause: str, delay_seconds: float) -> None: ...
    def ready(self, seconds: float) -> None: ...
    def stopping(self) -> None: ...


class Supervisor:
    """Runs a set of services until it is told to stop, or one is lost.

    `spec_of(name)` makes the spec of a service added later. `scalable` names what may be added.
    """

    def __init__(
        self,
        config: LauncherConfig,
        spec_of: Callable[[str], ServiceSpec],
        observer: Observer,
        policy: CrashPolicy | None = None,
        scalable: tuple[str, ...] = ("tokenizer", "frontend"),
    ) -> None:
        self._config = config
        self._observer = observer
        self._policy = policy or StopOnLoss()
        self._drain_seconds = config.shutdown_timeout + _MARGIN_SECONDS
        self._began = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, self._woken)
        self.children: dict[str, Child] = {}
        self.names_used: set[str] = set()
        self._commands = OperatorCommands(
            self.children, lambda name: self._start(spec_of(name)), self._answer, self._drain_seconds, scalable
        )
        self._groups = Groups(self.children)
        self._restarts = Restarts(self._start, self._groups.is_falling)
        self._watchdog = Watchdog(config.stall_limit)
        self._link: ControlLink | None = None
        self._shutdown: Shutdown | None = None
        self._stops_asked = 0
        self._is_ready = False
        self._next_poll = 0.0
        self.cause = ""
        """Why it stopped, when nobody asked it to."""

    def run(self, specs: Sequence[ServiceSpec]) -> bool:
        """Start these and stay until all are gone. False when it was not the operator who ended it; see `cause`."""
        try:
            for spec in specs:
                self._start(spec)
            self._open_link()
            while self.children or self._restarts:
                self._wait()
                self._advance(time.monotonic())
        finally:
            for child in self.children.values():
                child.kill()
            while self.children:
                self._wait()
            self._close()
        return not self.cause

    def ask_to_stop(self) -> None:
        """Begin an ordered stop; a second call ends all now. May be called from a signal handler or thread."""
        self._stops_asked += 1
        self._wake()

    def stop_on_signals(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.ask_to_stop())

    # --- starting -----------------------------------------------------------------------------

    def _start(self, spec: ServiceSpec) -> None:
        if self._restarts.given_up.pop(spec.name, None) is not None:
            self._tell_outages()
        child = Child(self._joining(spec))
        self.children[spec.name] = child
        self.names_used.add(spec.name)
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda: self._bury(child))
        self._selector.register(child.output_fd, selectors.EVENT_READ, lambda: self._read_output(child))
        self._observer.started(child)

    def _joining(self, spec: ServiceSpec) -> ServiceSpec:
        """A frontend beside others that serve gets its share of connections only once it can answer them."""
        has_sibling = any(child.kind == "frontend" and child.is_ready for child in self.children.values())
        if spec.kind != "frontend" or not has_sibling or "--is-joining" in spec.command:
            return spec
        return msgspec.structs.replace(spec, command=(*spec.command, "--is-joining"))

    def _open_link(self) -> None:
        try:
            self._link = ControlLink(
                self._config, self._on_report, self._on_command, self._watch_link, self._unwatch_link
            )
            self.names_used.add(self._link.name)
        except NameTakenError as error:
            self._stop(str(error))

    def _watch_link(self, fd: int) -> None:
        self._selector.register(fd, selectors.EVENT_READ, lambda: None)

    def _unwatch_link(self, fd: int) -> None:
        self._selector.unregister(fd)

    # --- the loop -----------------------------------------------------------------------------

    def _wait(self) -> None:
        limit = _POLL_SECONDS if self._is_ready or self._shutdown else _STARTING_POLL_SECONDS
        for key, _ in self._selector.select(limit):
            if key.fd in self._selector.get_map():
                key.data()
        if self._link is not None:
            self._link.receive()

    def _advance(self, now: float) -> None:
        if self._link is not None and now >= self._next_poll:
            self._next_poll = now + (_POLL_SECONDS if self._is_ready else _STARTING_POLL_SECONDS)
            self._link.poll()
        self._obey_stops()
        for child in self.children.values():
            if child.failed_at is not None and now - child.failed_at > _FAILED_SECONDS:
                child.kill_as_lost()
        if self._shutdown is not None:
            self._shutdown.advance(self.children, now)
            return
        self._watchdog.look(self.children.values(), now)
        self._restarts.advance(now)
        self._commands.advance(now, self._restarts.given_up)
        if not self._is_ready and self.children and all(child.is_ready for child in self.children.values()):
            self._is_ready = True
            self._observer.ready(now - self._began)
            if self._link is not None:
                self._link.tell("ready")

    def _obey_stops(self) -> None:
        if self._stops_asked and self._shutdown is None:
            self._stop("")
        if self._stops_asked > 1:
            for child in self.children.values():
                child.kill()

    def _stop(self, cause: str) -> None:
        if self._shutdown is not None:
            return
        self.cause = cause or self._restarts.cause
        self._restarts.clear()
        self._shutdown = Shutdown(_CRASH_DRAIN_SECONDS if cause else self._drain_seconds)
        self._observer.stopping()
        if self._link is not None:
            self._link.tell("failed" if cause else "draining", cause)

    def _wake(self) -> None:
        try:
            os.write(self._wake_write, b"!")
        except OSError:
            pass  # it is awake already, or gone

    def _woken(self) -> None:
        os.read(self._wake_read, 4096)

    # --- what children do ---------------------------------------------------------------------

    def _read_output(self, child: Child) -> None:
        lines = child.read_lines()
        if lines is None:
            self._selector.unregister(child.output_fd)
            return
        for line in lines:
            self._observer.printed(child, line)

    def _bury(self, child: Child) -> None:
        if self._link is not None:
            self._link.have_all_look()
            self._link.receive()  # its last report may say why
        is_expected = child.is_stopping
        self._selector.unregister(child.pidfd)
        if child.output_fd in self._selector.get_map():
            self._read_output(child)
        if child.output_fd in self._selector.get_map():
            self._selector.unregister(child.output_fd)
        ending = child.bury()
        del self.children[child.name]
        self._observer.ended(child, ending, is_expected)
        if is_expected or self._shutdown is not None:
            return
        now = time.monotonic()
        fate = self._groups.fate(child)
        if fate is not None:
            self._follow(child, fate, now)
            return
        is_added = not child.was_ready and self._commands.is_starting(child.name)
        served = 0.0 if child.ready_since is None else now - child.ready_since
        loss = Loss(child.name, ending, child.was_ready, self._is_ready, served, is_added, child.spec.group)
        decision = self._policy.decide(loss, now)
        match decision:
            case Restart(cause, delay):
                self._observer.restarting(cause, delay)
                self._follow(child, decision, now)
                self._groups.fall(child, decision)
            case StayDown(cause):
                self._observer.gave_up(cause)
                self._follow(child, decision, now)
                self._groups.fall(child, decision)
            case StopAll(cause):
                self._stop(cause)
            case GiveUp(cause):
                self._observer.gave_up(cause)

    def _follow(self, child: Child, fate: Restart | StayDown, now: float) -> None:
        """Do with an ended child as was decided for it, or for its group."""
        if isinstance(fate, Restart):
            self._restarts.add(child.spec, now + fate.delay_seconds)
        else:
            self._restarts.give_up(child.name, fate.cause)
        self._tell_outages()

    # --- what comes over the links --------------------------------------------------------------

    def _tell_outages(self) -> None:
        if self._link is not None:
            self._link.tell_outages(Outages(dict(self._restarts.given_up), dict(self._restarts.counts)))

    def _on_report(self, report: Report) -> None:
        child = self.children.get(report.name)
        if child is not None and child.hear(report):
            self._observer.reported(child, report)

    def _on_command(self, peer: str, command: Scale | Replace) -> None:
        hindrance = ""
        if self._shutdown is not None:
            hindrance = "the server is stopping"
        elif not self._is_ready:
            hindrance = "the server is still starting"
        elif self._restarts:
            hindrance = "a service is being restarted; please try again"
        self._commands.begin(peer, command, hindrance, time.monotonic())

    def _answer(self, peer: str, done: Done) -> None:
        if self._link is not None:
            self._link.answer(peer, done)

    def _close(self) -> None:
        if self._link is not None:
            self._link.close()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)
