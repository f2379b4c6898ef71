"""An HTTP connection with limits: uvicorn's httptools protocol, made to refuse what is too much.

Header bytes and count, the time headers and body may take, and what may be unsent are bounded here, before
the application is asked; so is what the door refuses (early_refusal.py), whose body is read and dropped.
Malformed HTTP is answered with the same envelope as everything else.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from quire.shared.config import FrontendConfig
from quire.shared.errors import HEADERS_TOO_LARGE, INVALID_REQUEST, REQUEST_TIMEOUT, ErrorKind, envelope

from .early_refusal import EarlyRefusals
from .exchange import Headers
from .listener import Listener

_REASONS = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}
_HEAD = b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"


class HttpConnection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, limits: FrontendConfig, listener: Listener, early: EarlyRefusals, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._limits = limits
        self._early = early
        self._listener = listener
        self._num_unsent = 0
        self._unsent_since = 0.0
        """When its reader was last seen to take something of an answer that is complete."""
        self._header_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._refusal: tuple[ErrorKind, str] | None = None
        self._is_in_body = False
        self._is_refused = False
        """The request is answered already; its body is dropped as it comes."""
        self._ends_after_body = False
        self._is_skipping_head = False
        """While a parser reads the head that `_go_on_without_upgrade` made up."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        unsent = self._limits.max_unsent_size
        transport.set_write_buffer_limits(high=unsent, low=unsent // 4)
        self._arm(self._limits.header_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._unset_keepalive_if_required()
        self._listener.left(self)
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
        self._listener.became_busy(self)
        self._header_bytes = 0
        self._is_in_body = False
        self._arm(self._limits.header_timeout)

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
        self._arm(self._limits.body_timeout)
        if self._is_free and self.parser.get_method() == b"POST":
            answer = self._early.answer(self.url.partition(b"?")[0], self.headers)
            if answer is not None:
                self._answer_early(*answer)
                return
        super().on_headers_complete()

    @property
    def _is_free(self) -> bool:
        """Nothing is under way, nor unsent beyond the limit: an answer may be written."""
        is_idle = self.cycle is None or self.cycle.response_complete
        return is_idle and not self.flow.write_paused and not self.transport.is_closing()

    def _answer_early(self, status: int, headers: Headers, body: bytes) -> None:
        """Whole. A connection that is to end does so after the body, or its client might never read this."""
        self._is_refused = True
        stays = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self._ends_after_body = not stays or (b"connection", b"close") in headers
        if not stays:
            headers = [*headers, (b"connection", b"close")]
        lines = [b"%b: %b\r\n" % header for header in [*self.server_state.default_headers, *headers]]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))
        self.server_state.total_requests += 1

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return  # not complete: see _go_on_without_upgrade
        self._disarm()
        if self._is_refused:
            self._is_refused = False
            self._after_answer(self._ends_after_body)
        elif self.cycle.response_complete:
            self._after_answer(self.transport.is_closing())
        else:
            super().on_message_complete()

    def _after_answer(self, ends: bool) -> None:
        """The body of a request that was answered before it came is there."""
        self._num_unsent, self._unsent_since = 0, self.loop.time()
        if ends:
            self.transport.close()
            self._listener.finishing(self)
        else:
            self._unset_keepalive_if_required()
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )
            self._listener.became_idle(self)

    def send_400_response(self, msg: str) -> None:
        """Called for whatever the parser does not take."""
        kind, message = self._refusal or (INVALID_REQUEST, "The request is not valid HTTP.")
        self._refuse(kind, message)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._num_unsent, self._unsent_since = 0, self.loop.time()
        if self.transport.is_closing():
            self._listener.finishing(self)
        elif self.timeout_keep_alive_task is not None:
            self._listener.became_idle(self)

    def leave(self) -> None:
        self.transport.close()

    def drop(self) -> None:
        self.transport.abort()

    def has_stalled(self, now: float) -> bool | None:
        """As Guest asks; while an answer is under way streaming.Watchdog asks instead."""
        num_unsent = self.transport.get_write_buffer_size()
        if num_unsent < self._num_unsent or (self.cycle is not None and not self.cycle.response_complete):
            self._unsent_since = now
        self._num_unsent = num_unsent
        return now - self._unsent_since > self._limits.stall_timeout if num_unsent else None

    def _count(self, size: int) -> None:
        self._header_bytes += size
        limits = self._limits
        if self._header_bytes > limits.max_header_size or len(self.headers) >= limits.max_headers:
            message = (
                f"The request has more than {limits.max_headers} headers or {limits.max_header_size} bytes of them."
            )
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
        is_answering = self._is_refused or (
            cycle is not None and cycle.response_started and (self._is_in_body or not cycle.response_complete)
        )
        is_silent = self.cycle is None and kind is REQUEST_TIMEOUT and self._header_bytes == 0
        if not is_answering and not is_silent:
            body = envelope(message, kind.type, None, kind.code)
            self.transport.write(_HEAD % (kind.status, _REASONS[kind.status], len(body)) + body)
        self.transport.close()
