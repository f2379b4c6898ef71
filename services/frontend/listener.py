"""The listening socket: connections are taken while there is room for them, and wait in its backlog while not.

Room ends at --max-connections and at nine tenths of the file descriptors; when a connection ends, or an idle
one is closed to make room, taking goes on. Also ends connections that leave a whole answer untaken.
Knows connections by the few methods of Guest; no HTTP.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
from collections.abc import Callable
from typing import Protocol

from quire.shared.config import FrontendConfig
from quire.shared.metrics import Metrics

from .port_sharing import spread

logger = logging.getLogger("quire.frontend")

BACKLOG = 2048
_DESCRIPTOR_SHARE = 0.9
_AT_ONCE = 64
"""Connections taken before the event loop turns."""
_MADE_ROOM = 16
"""Idle connections closed at once when somebody waits."""
_RETRY_SECONDS = 0.5
"""After the kernel had no descriptor or memory for a connection."""
_QUIET_SECONDS = 60.0
"""Between two lines about connections that wait."""
_NO_ROOM = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Guest(Protocol):
    """A connection, as it is known here."""

    def leave(self) -> None:
        """Close it: nothing is under way."""
        ...

    def has_stalled(self, now: float) -> bool | None:
        """Whether its reader has taken nothing for too long; None when nothing is unsent."""
        ...

    def drop(self) -> None:
        """End it without waiting for its reader."""
        ...


class Listener:
    """`open` begins to take connections, each with a protocol that `make` gives; `close` stops."""

    def __init__(
        self, sock: socket.socket, config: FrontendConfig, metrics: Metrics, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.socket = sock
        self._metrics = metrics
        self._loop = loop
        self._make: Callable[[], asyncio.BaseProtocol] | None = None
        self._is_watching = False
        self._is_out_of_descriptors = False
        self._warned = float("-inf")
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: dict[Guest, None] = {}
        """The longest idle first."""
        self._leaving: set[Guest] = set()
        """Idle ones that were closed to make room, until they are gone."""
        self._finishing: set[Guest] = set()
        """Those whose last answer may still be unsent."""
        self.limit = config.max_connections
        self.descriptor_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.num_connections = 0
        self.has_stopped_listening = False

    # --- for the HTTP server

    def open(self, make: Callable[[], asyncio.BaseProtocol]) -> None:
        self._make = make
        self.socket.listen(BACKLOG)
        spread(self.socket)
        self._watch()

    def close(self) -> None:
        self._make = None
        self._watch()

    def stop_listening(self) -> None:
        """Others have the port. Those that wait already are taken, whatever the limits: the kernel would reset them."""
        if self._is_watching:
            self._is_watching = False
            self._loop.remove_reader(self.socket.fileno())
        while self._take() is not None:
            pass
        self.has_stopped_listening = True
        self.socket.close()

    def end_idle(self) -> None:
        """Close the connections on which nothing is under way."""
        for guest in list(self._idle):
            guest.leave()

    async def wait_closed(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- for connections

    def became_idle(self, guest: Guest) -> None:
        """It waits for its client's next request; its last answer may not be sent yet."""
        self._idle[guest] = None
        self._finishing.add(guest)
        if not self._is_watching:
            self._watch()

    def became_busy(self, guest: Guest) -> None:
        self._idle.pop(guest, None)

    def finishing(self, guest: Guest) -> None:
        """It ends once its last answer is sent."""
        self._finishing.add(guest)

    def left(self, guest: Guest) -> None:
        self._idle.pop(guest, None)
        self._finishing.discard(guest)
        self._leaving.discard(guest)
        self.num_connections -= 1
        self._is_out_of_descriptors = False
        self._watch()

    # --- taking connections

    @property
    def _is_full(self) -> bool:
        return self._is_out_of_descriptors or (self.limit is not None and self.num_connections >= self.limit)

    def _watch(self) -> None:
        """Look for new connections if there is room for one, or if room can be made."""
        has_room = not self._is_full or (bool(self._idle) and not self._leaving)
        wants = self._make is not None and has_room and not self.has_stopped_listening
        if wants == self._is_watching:
            return
        self._is_watching = wants
        if wants:
            self._loop.add_reader(self.socket.fileno(), self._on_readable)
        else:
            self._loop.remove_reader(self.socket.fileno())

    def _on_readable(self) -> None:
        """Somebody waits, or several."""
        for number in range(_AT_ONCE):
            if self._is_full:
                if number == 0:
                    self._make_room()
                break
            if (connection := self._take()) is None:
                break
            # The kernel gives the lowest free number, so all below it are taken.
            self._is_out_of_descriptors = connection.fileno() >= self.descriptor_limit * _DESCRIPTOR_SHARE
        if self._is_full:
            self._note_full()
        self._watch()

    def _take(self) -> socket.socket | None:
        """The next of those that wait; None: nobody does, or there is no room in the kernel."""
        while True:
            try:
                connection, _ = self.socket.accept()
            except (BlockingIOError, InterruptedError):
                return None
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    continue  # it has gone while it waited
                self._is_out_of_descriptors = True
                self._loop.call_later(_RETRY_SECONDS, self._retry)
                return None
            self.num_connections += 1
            task = self._loop.create_task(self._welcome(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return connection

    async def _welcome(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        try:
            if self._make is None:
                raise ConnectionAbortedError
            await self._loop.connect_accepted_socket(self._make, connection)  # from here on the guest says `left`
        except OSError:
            connection.close()
            self.num_connections -= 1
            self._watch()

    def _retry(self) -> None:
        self._is_out_of_descriptors = False
        self._watch()

    def _make_room(self) -> None:
        for guest in list(self._idle)[:_MADE_ROOM]:
            del self._idle[guest]
            self._leaving.add(guest)
            self.count_dropped("idle")
            guest.leave()

    def _note_full(self) -> None:
        self._metrics.counter("quire_accept_pauses_total").add()
        now = self._loop.time()
        if now - self._warned > _QUIET_SECONDS:
            self._warned = now
            limit = "nine tenths of the file descriptors" if self._is_out_of_descriptors else "--max-connections"
            logger.warning("%d connections are open, all that %s allow; more have to wait", self.num_connections, limit)

    # --- ending connections

    def look(self) -> None:
        """From time to time: end those that have an answer and do not take it."""
        now = self._loop.time()
        for guest in list(self._finishing):
            has_stalled = guest.has_stalled(now)
            if has_stalled is None:
                self._finishing.discard(guest)
            elif has_stalled:
                self._finishing.discard(guest)
                self.count_dropped("stalled")
                guest.drop()

    def count_dropped(self, cause: str) -> None:
        self._metrics.counter("quire_connections_dropped_total", cause=cause).add()
