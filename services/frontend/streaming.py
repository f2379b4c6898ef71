"""A response as server-sent events, over raw ASGI.

Takes deltas from the mailbox, sends what they make, all that wait in one send. The Watchdog looks at
every stream twice a second: it sends comments while nothing is produced, and ends readers that stall.
Knows how chunks are framed, not what is in them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from quire.shared.errors import ApiError

from .answers import Answer, Asked, Tally, scored
from .exchange import Exchange
from .mailbox import Delta, Mailbox

logger = logging.getLogger("quire.frontend")

_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_MAX_SEND_BYTES = 256 << 10
"""What is handed to a connection at once, however much waits for a slow reader."""
_MAX_PENDING_ENTRIES = 65536
"""Tokens of logprobs (some 16 MiB) that may wait for a reader that is behind; text is small beside them."""


class EventStream:
    """One streamed response. Its headers wait for the first deltas, so that it may still be refused, for `hold_seconds`
    at most."""

    __slots__ = (
        "_answer", "_asked", "_exchange", "_hold_seconds", "_on_first", "_on_last", "_tally", "_transport",
        "has_moved", "is_sending", "mailbox", "quiet_since",
    )  # fmt: skip

    def __init__(
        self,
        exchange: Exchange,
        mailbox: Mailbox,
        answer: Answer,
        asked: Asked,
        tally: Tally,
        on_first: Callable[[], None],
        on_last: Callable[[], None],
        hold_seconds: float,
    ) -> None:
        self._exchange = exchange
        self._answer = answer
        self._asked = asked
        self._tally = tally
        self._on_first = on_first
        self._on_last = on_last
        self._hold_seconds = hold_seconds
        self._transport: Any = None
        if exchange.scope.get("http_version") == "1.1" and not asked.is_scoring:  # 1.0 has no chunks
            self._transport = exchange.scope.get("quire.transport")
        self.mailbox = mailbox
        self.is_sending = False
        self.has_moved = True
        """Since the watchdog last looked."""
        self.quiet_since = 0.0

    @property
    def num_unsent_bytes(self) -> int:
        transport = self._exchange.scope.get("quire.transport")
        written = 0 if transport is None else transport.get_write_buffer_size()
        return written + self.mailbox.num_pending_bytes

    async def run(self) -> None:
        """Send the whole stream. Raises ClientGone; what fails once it has begun ends it with an error event."""
        first = await self._first_deltas()
        await self._exchange.start(200, _HEADERS)
        try:
            await self._send_deltas(first)
        except ApiError as error:
            self._on_last()
            await self._send(self._answer.failed(error), more=False)
            raise

    async def _first_deltas(self) -> list[Delta]:
        """None when it is time to begin without."""
        if not self._hold_seconds:
            return []
        loop = asyncio.get_running_loop()
        end = loop.time() + self._hold_seconds
        while True:
            deltas = self.mailbox.take_now() or await self.mailbox.take()
            if deltas or loop.time() >= end:
                return deltas

    async def _send_deltas(self, deltas: list[Delta]) -> None:
        """Those, and all that follow until each choice has ended."""
        tally, mailbox, n = self._tally, self.mailbox, self._asked.num_drawn
        is_scoring, chunks = self._asked.is_scoring, self._answer.chunks
        is_first = True
        while True:
            deltas = deltas or mailbox.take_now() or await mailbox.take()
            if not deltas:
                await self._send(self._answer.keep_alive)
                continue
            frames = b""
            if is_first:
                is_first = False
                self._on_first()
                frames = self._answer.opening()
            for delta in deltas:
                if is_scoring:
                    delta = scored(delta)
                tally.add(delta, n)
                frames += chunks(delta)
                if len(frames) > _MAX_SEND_BYTES:
                    await self._send(frames)
                    frames = b""
            deltas = []
            if tally.num_open == 0:
                self._on_last()
                await self._send(frames + self._answer.closing() + self._answer.done, more=False)
                return
            if frames:
                await self._send(frames)
            if mailbox.sink is None and self._transport is not None:
                mailbox.sink = self._write_at_once

    def _write_at_once(self, delta: Delta) -> bool:
        """The short way of a delta: a chunk of the body straight to the socket, if that has nothing unsent.

        Saves a fifth of a token's cost here: no future, no task, no ASGI message.
        """
        transport = self._transport
        if transport.get_write_buffer_size() or transport.is_closing():
            return False
        self._tally.add(delta, self._asked.num_drawn)
        frames = self._answer.chunks(delta)
        if frames:
            transport.write(b"%x\r\n%b\r\n" % (len(frames), frames))
        self.has_moved = True
        return True

    async def _send(self, data: bytes, more: bool = True) -> None:
        self.is_sending = True
        await self._exchange.send({"type": "http.response.body", "body": data, "more_body": more})
        self.is_sending = False
        self.has_moved = True


class Watchdog:
    """Looks at all streams from time to time, so that no stream needs a timer of its own."""

    def __init__(self, keep_alive_seconds: float, stall_seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        self._keep_alive_seconds = keep_alive_seconds
        self._stall_seconds = stall_seconds
        self._loop = loop
        self._streams: dict[EventStream, Callable[[], None]] = {}
        self.interval_seconds = min(0.5, keep_alive_seconds / 2, stall_seconds / 2)

    def add(self, stream: EventStream, on_stall: Callable[[], None]) -> None:
        """`on_stall` is called once when the stream's reader takes nothing for too long."""
        self._streams[stream] = on_stall

    def remove(self, stream: EventStream) -> None:
        self._streams.pop(stream, None)

    @property
    def num_unsent_bytes(self) -> int:
        """Of all streams: text that waits to be written, and what is written and not taken."""
        return sum(stream.num_unsent_bytes for stream in self._streams)

    def look(self) -> None:
        now = self._loop.time()
        for stream, on_stall in list(self._streams.items()):
            if stream.has_moved:
                stream.has_moved = False
                stream.quiet_since = now
            elif stream.is_sending:
                is_heavy = stream.mailbox.num_pending_entries > _MAX_PENDING_ENTRIES
                if is_heavy or now - stream.quiet_since > self._stall_seconds:
                    self.remove(stream)
                    on_stall()
            elif now - stream.quiet_since > self._keep_alive_seconds:
                stream.mailbox.wake()
