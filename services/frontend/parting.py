"""A frontend that leaves while others go on (`quire restart frontend`, `quire scale`): no client notices.

New connections go to the others; what is open is served until its next answer, which closes it, or until it has been
idle for long. Different from a drain, in which the whole server goes and refuses. Knows no request.
"""

from __future__ import annotations

import asyncio

from .app import Application
from .listener import Listener
from .port_sharing import steer_to

_STEER_SECONDS = 0.5
"""For handshakes under way when new connections were steered away: a round trip or two."""
_IDLE_SHARE = 1 / 6
"""Of --shutdown-timeout: 5 s as it is. A client that uses its connection does so within these."""
_LOOK_SECONDS = 0.02


class Parting:
    """`stop()` ends it early: the server itself is to stop."""

    def __init__(self, app: Application, listener: Listener) -> None:
        self._app = app
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._is_stopped = False

    def stop(self) -> None:
        self._is_stopped = True

    async def run(self, max_seconds: float) -> bool:
        """Until nobody is connected, or the time is over; False when it was stopped."""
        began = self._loop.time()
        self._app.parting_headers.append((b"connection", b"close"))
        num_others = len(self._app.siblings.ready_names)
        if num_others and steer_to(self._listener.socket, num_others):
            await self._wait(began + _STEER_SECONDS)
        self._listener.stop_listening()
        await self._wait(began + max_seconds * _IDLE_SHARE)
        self._listener.end_idle()
        await self._wait(began + max_seconds)
        return not self._is_stopped

    async def _wait(self, until: float) -> None:
        """For that time, or until nobody is connected any more."""
        while not self._is_stopped and self._loop.time() < until:
            if self._listener.has_stopped_listening and not self._listener.num_connections:
                return
            await asyncio.sleep(_LOOK_SECONDS)
