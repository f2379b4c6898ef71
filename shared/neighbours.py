"""Who is there: the peers above that dialled us, and the services below that we dial.

Both are polled by their owner about ten times a second. On one host presence is the lock in the
run directory, so a death is seen at the next poll; over tcp it is silence.
Knows Hello and Report, and no other message.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

import msgspec

from .link import Client, Server
from .messages import PROTOCOL, Hello, Report
from .service import Service

logger = logging.getLogger("quire.neighbours")

In = TypeVar("In")

HELLO_SECONDS = 1.0
SILENCE_SECONDS = 5.0
"""After which a peer that is in no run directory of ours counts as gone."""
POLL_SECONDS = 0.1


class _Peer(msgspec.Struct):
    incarnation: int
    heard: float
    is_registered: bool
    """Seen in the run directory under this incarnation: its lock tells of its life."""


class Above:
    """The clients of our server. `on_vanish(name)` is called once for each that is gone or was replaced."""

    def __init__(self, server: Server[Any], service: Service[Any], on_vanish: Callable[[str], None]) -> None:
        self._server = server
        self._service = service
        self._on_vanish = on_vanish
        self._peers: dict[str, _Peer] = {}

    @property
    def names(self) -> list[str]:
        return list(self._peers)

    def hear(self, peer: str, hello: Hello) -> None:
        """Take a Hello: a new peer (or a new incarnation of one) gets our latest report at once."""
        if hello.protocol != PROTOCOL:
            logger.error("%s speaks protocol %d and this service %d; it is ignored", peer, hello.protocol, PROTOCOL)
            return
        known = self._peers.get(peer)
        if known is not None and known.incarnation == hello.incarnation:
            known.heard = time.monotonic()
            return
        if known is not None:
            self._drop(peer)
        self._peers[peer] = _Peer(hello.incarnation, time.monotonic(), self._is_registered(peer, hello.incarnation))
        self._server.send(peer, self._service.last_report)

    def publish(self, report: Report) -> None:
        for peer in self._peers:
            self._server.send(peer, report)

    def poll(self) -> None:
        """Find who is gone. Costs some microseconds a peer."""
        now = time.monotonic()
        for name, peer in list(self._peers.items()):
            is_there = self._is_registered(name, peer.incarnation)
            if is_there:
                peer.is_registered = True
            elif peer.is_registered or now - peer.heard > SILENCE_SECONDS:
                self._drop(name)

    def _is_registered(self, name: str, incarnation: int) -> bool:
        entry = self._service.directory.entry(name)
        return entry is not None and entry.incarnation == incarnation

    def _drop(self, name: str) -> None:
        del self._peers[name]
        logger.info("%s is gone", name)
        self._on_vanish(name)


class _Dialled(msgspec.Struct, Generic[In]):
    client: Client[In]
    incarnation: int
    """0 until known (tcp)."""
    heard: float
    is_remote: bool
    is_present: bool


class Below(Generic[In]):
    """The services of one kind that we dial: those in the run directory, and those at given addresses.

    `on_appear(name, client)` when one is there (attach a reader), `on_vanish(name)` when it is gone;
    a restart is a vanish and an appearance. The owner passes every Report on to `hear`.
    """

    def __init__(
        self,
        service: Service[Any],
        kind: str,
        incoming: Any,
        on_appear: Callable[[str, Client[In]], None],
        on_vanish: Callable[[str], None],
        addresses: Iterable[str] = (),
    ) -> None:
        self._service = service
        self._kind = kind
        self._incoming = incoming
        self._on_appear = on_appear
        self._on_vanish = on_vanish
        self._dialled: dict[str, _Dialled[In]] = {}
        self._next_hello = 0.0
        self._hello = Hello(service.name, service.incarnation)
        for address in addresses:
            self._dial(address, address, incarnation=0, is_remote=True)

    @property
    def links(self) -> dict[str, Client[In]]:
        """Those that are there."""
        return {name: dialled.client for name, dialled in self._dialled.items() if dialled.is_present}

    @property
    def dialled(self) -> dict[str, Client[In]]:
        """And those at given addresses that were not heard yet: what a blocking owner has to listen to."""
        return {name: dialled.client for name, dialled in self._dialled.items()}

    def hear(self, name: str, report: Report) -> None:
        """Note a sign of life from `name` (the key of `links`)."""
        dialled = self._dialled.get(name)
        if dialled is None:
            return
        dialled.heard = time.monotonic()
        if dialled.is_remote and dialled.incarnation != report.incarnation:
            if dialled.is_present and dialled.incarnation:
                self._vanish(name)
            dialled.incarnation = report.incarnation
        dialled.is_present = True

    def poll(self) -> None:
        """Dial who has appeared, drop who is gone, say hello when it is time."""
        entries = self._service.directory.entries(self._kind)
        now = time.monotonic()
        for name, dialled in list(self._dialled.items()):
            if dialled.is_remote:
                if dialled.is_present and now - dialled.heard > SILENCE_SECONDS:
                    self._vanish(name)
            elif name not in entries or entries[name].incarnation != dialled.incarnation:
                del self._dialled[name]
                logger.info("%s is gone", name)
                self._on_vanish(name)
                dialled.client.discard()
        if now >= self._next_hello:
            self._next_hello = now + HELLO_SECONDS
            for dialled in self._dialled.values():
                dialled.client.send(self._hello)
        for name, entry in entries.items():
            if name not in self._dialled:
                self._dial(name, entry.address, entry.incarnation, is_remote=False)

    def close(self) -> None:
        for dialled in self._dialled.values():
            dialled.client.close()
        self._dialled.clear()

    def _dial(self, name: str, address: str, incarnation: int, is_remote: bool) -> None:
        keys = None if address.startswith("ipc://") else self._service.keys
        client: Client[In] = Client(address, self._service.name, self._incoming, keys)
        self._dialled[name] = _Dialled(client, incarnation, time.monotonic(), is_remote, is_present=not is_remote)
        client.send(self._hello)
        self._on_appear(name, client)

    def _vanish(self, name: str) -> None:
        self._dialled[name].is_present = False
        logger.info("%s is silent", name)
        self._on_vanish(name)
