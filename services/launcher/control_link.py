"""The launcher's own links: reports from every service, commands from the operator.

It dials each service as a neighbour above would, and binds launcher-N for `quire scale` and `quire restart`.
Knows nothing of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quire.shared.config import LauncherConfig
from quire.shared.link import Client
from quire.shared.messages import Departed, Done, Hello, Look, Outages, Replace, Report, Scale, ToLauncher
from quire.shared.neighbours import Above, Below
from quire.shared.service import Service

from .departed import DepartedCounts
from .topology import KINDS


class ControlLink:
    """Polled by the supervisor. Raises NameTakenError when another launcher holds the directory.

    `watch(fd)` and `unwatch(fd)` are told which descriptors wake it up.
    """

    def __init__(
        self,
        config: LauncherConfig,
        on_report: Callable[[Report], None],
        on_command: Callable[[str, Scale | Replace], None],
        watch: Callable[[int], None],
        unwatch: Callable[[int], None],
    ) -> None:
        self._service = Service("launcher", config)
        self.name = self._service.name
        self._on_report = on_report
        self._on_command = on_command
        self._watch, self._unwatch = watch, unwatch
        self._server = self._service.listen(ToLauncher)
        self._above = Above(self._server, self._service, on_vanish=lambda name: None)
        self._clients: dict[str, Client[Any]] = {}
        self._outages = Outages({})
        self._departed = DepartedCounts()
        self._below = [Below(self._service, kind, Report, self._appeared, self._vanished) for kind in KINDS]
        watch(self._server.fileno())

    def _appeared(self, name: str, client: Client[Any]) -> None:
        self._clients[name] = client
        if name.startswith("frontend-"):
            for departed in self._departed.all:
                client.send(departed)
            client.send(self._outages)
        self._watch(client.fileno())

    def _vanished(self, name: str) -> None:
        client = self._clients.pop(name)
        self._read(client)
        self._unwatch(client.fileno())
        departed = self._departed.add(name)
        if departed is not None:
            self._tell_frontends(departed)

    def _read(self, client: Client[Any]) -> None:
        while (message := client.receive()) is not None:
            self._departed.hear(message)
            self._on_report(message)

    def receive(self) -> None:
        """Take all that has come. Never blocks."""
        for client in list(self._clients.values()):
            self._read(client)
        while (received := self._server.receive()) is not None:
            peer, message = received
            match message:
                case Hello():
                    self._above.hear(peer, message)
                case Scale() | Replace():
                    self._on_command(peer, message)

    def poll(self) -> None:
        """Find who has appeared and who is gone; about ten times a second."""
        for below in self._below:
            below.poll()

    def tell_outages(self, outages: Outages) -> None:
        """Frontends are told, those that come later too."""
        self._outages = outages
        self._tell_frontends(outages)

    def _tell_frontends(self, message: Outages | Departed) -> None:
        for name, client in self._clients.items():
            if name.startswith("frontend-"):
                client.send(message)

    def have_all_look(self) -> None:
        """A service has ended: those above workers shall see it now, not at their next poll."""
        for name, client in self._clients.items():
            if not name.startswith("worker-"):
                client.send(Look())

    def tell(self, state: str, detail: str = "") -> None:
        """The launcher's own state, for who asks at its address."""
        self._above.publish(self._service.report(state, detail))

    def answer(self, peer: str, done: Done) -> None:
        self._server.send(peer, done)

    def close(self) -> None:
        for client in self._clients.values():
            self._unwatch(client.fileno())
        for below in self._below:
            below.close()
        self._unwatch(self._server.fileno())
        self._server.close()
        self._service.close()
