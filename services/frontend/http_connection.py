"""An HTTP connection with limits: uvicorn's httptools protocol, made to refuse what is too much.

Header bytes and count, and the time headers and body may take, are bounded here, before the
application is asked; malformed HTTP is answered with the same envelope as everything else.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from quire.shared.errors import HEADERS_TOO_LARGE, INVALID_REQUEST, REQUEST_TIMEOUT, ErrorKind, envelope

MAX_HEADER_BYTES = 32 << 10
MAX_HEADERS = 64
HEADER_SECONDS = 10.0
BODY_SECONDS = 30.0
_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}
_HEAD = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
_UNSENT_BYTES = 256 << 10
"""Beyond which a stream's sends wait."""


class HttpConnection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: tuple[ErrorKind, str] | None = None
        self._is_in_body = False
        self._is_skipping_head = False
        """While a parser reads the head that `_go_on_without_upgrade` made up."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=_UNSENT_BYTES, low=_UNSENT_BYTES // 4)
        self._arm(HEADER_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        """Read the body of a request that offers another protocol, as Java's and curl's clients do with HTTP/2.

        The offer may be ignored, but the parser takes what follows for the new protocol. So another
        parser reads it, after a head that only says how long it is.
        """
        lengths = [(k, v) for k, v in self.headers if k in (b"content-length", b"transfer-encoding")]
        head = b"POST / HTTP/1.1\r\n" + b"".join([b"%b: %b\r\n" % header for header in lengths]) + b"\r\n"
        self.parser = httptools.HttpRequestParser(self)
        self._is_skipping_head = True
        self.data_received(head)
        if rest and self.parser is not None:
            self.data_received(rest)

    def on_message_begin(self) -> None:
        if self._is_skipping_head:
            return
        super().on_message_begin()
        self.scope["quire.transport"] = self.transport  # type: ignore[typeddict-unknown-key]
        self._header_bytes = 0
        self._is_in_body = False
        self._arm(HEADER_SECONDS)

    def on_url(self, url: bytes) -> None:
        if self._is_skipping_head:
            return
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_skipping_head:
            return
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._is_skipping_head:
            self._is_skipping_head = False
            return
        self._is_in_body = True
        self._arm(BODY_SECONDS)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # not complete: see _go_on_without_upgrade
        self._disarm()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Called for whatever the parser does not take."""
        kind, message = self._refusal or (INVALID_REQUEST, "The request is not valid HTTP.")
        self._refuse(kind, message)

    def _count(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADER_BYTES or len(self.headers) >= MAX_HEADERS:
            message = f"The request has more than {MAX_HEADERS} headers or {MAX_HEADER_BYTES} bytes of them."
            self._refusal = (HEADERS_TOO_LARGE, message)
            raise ValueError(message)  # stops the parser, which then asks for send_400_response

    def _arm(self, seconds: float) -> None:
        self._disarm()
        self._timer = self.loop.call_later(seconds, self._on_timeout)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._timer = None
        self._refuse(REQUEST_TIMEOUT, "The request did not arrive in time.")

    def _refuse(self, kind: ErrorKind, message: str) -> None:
        """Answer by hand and close; nothing is written into a response that has begun."""
        self._disarm()
        if self.transport is None or self.transport.is_closing():
            return
        cycle = self.cycle
        is_answering = (
            cycle is not None and cycle.response_started and (self._is_in_body or not cycle.response_complete)
        )
        is_silent = self.cycle is None and kind is REQUEST_TIMEOUT and self._header_bytes == 0
        if not is_answering and not is_silent:
            body = envelope(message, kind.type, None, kind.code)
            self.transport.write(_HEAD % (kind.status, _REASONS[kind.status], len(body)) + body)
        self.transport.close()
