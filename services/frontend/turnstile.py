"""The turnstile: one at a time may do its work in a turn of the event loop, the others in the turns that follow.

A step that ends a whole batch, and the requests that take its places, would otherwise be worked through in
one turn of tens of milliseconds, in which no stream is written and nobody is refused. Knows no requests.
"""

from __future__ import annotations

import asyncio
from collections import deque

_AT_ONCE = 1
"""The beginning of a request is about half a millisecond, and a turn costs little more than a look for input."""


class Turnstile:
    """`enter` before work of about that size; in the order of coming."""

    def __init__(self, loop: asyncio.AbstractEventLoop, at_once: int = _AT_ONCE) -> None:
        self._loop = loop
        self._at_once = at_once
        self._num_left = at_once
        """In this turn."""
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Returns at once while there is room in this turn."""
        if self._num_left == self._at_once:
            self._loop.call_soon(self._turn)
        if self._num_left and not self._waiting:
            self._num_left -= 1
            return
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _turn(self) -> None:
        """The loop has looked for input since the last time."""
        self._num_left = self._at_once
        while self._waiting and self._num_left:
            waiter = self._waiting.popleft()
            if not waiter.done():  # or it was cancelled
                waiter.set_result(None)
                self._num_left -= 1
        if self._num_left < self._at_once:
            self._loop.call_soon(self._turn)
