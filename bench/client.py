"""A light HTTP/1.1 client for load: one request a connection at a time, frames of an event stream timed.

Under bench/serving.py and bench/chain.py. Costs about 4 microseconds a frame, so that on a small
machine the server is measured and not the client.
Knows the framing of HTTP and of server-sent events; of the API only where a frame has text.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httptools
from msgspec import Struct, field

Result = TypeVar("Result")

monotonic = time.monotonic

_HAS_TEXT = re.compile(rb'"(?:content|text|reasoning_content|reasoning)": ?"[^"]').search
DONE = b"[DONE]"


class Answer(Struct):
    """What came back for one request. Times are seconds of CLOCK_MONOTONIC."""

    sent: float
    status: int = 0
    headers_at: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    """Of the frames that carry text, or of the body of an answer that is no stream."""
    texts: list[bytes] = field(default_factory=list)
    """The frames that carry text, if they are kept."""
    last_frame: bytes = b""
    """The last one before [DONE]; with include_usage it has the usage. Else the body."""
    is_done: bool = False
    """[DONE] came, or the body of an answer that is no stream."""
    ended: float = 0.0
    error: str = ""
    retry_after: str = ""


class FrameParser:
    """Cuts the bytes of an event stream into the data of its frames, wherever they were split."""

    def __init__(self, on_frame: Callable[[bytes], None]) -> None:
        self._on_frame = on_frame
        self._rest = b""

    def feed(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        if b"\r" in data:
            # half a line end stays for later, so that it is never taken for a whole one
            held = b"\r" if data.endswith(b"\r") else b""
            data = data.removesuffix(held).replace(b"\r\n", b"\n") + held
        *frames, self._rest = data.split(b"\n\n")
        for frame in frames:
            if frame.startswith(b"data: "):
                self._on_frame(frame[6:])
            else:
                self._several_lines(frame)

    def _several_lines(self, frame: bytes) -> None:
        """A frame with comments, event names, or a line end left over before it."""
        lines = [line[5:].removeprefix(b" ") for line in frame.split(b"\n") if line.startswith(b"data:")]
        if lines:
            self._on_frame(b"\n".join(lines))


class Target(Struct, frozen=True):
    """Where requests go, and what every request carries."""

    host: str
    port: int
    is_tls: bool
    prefix: str
    """Path in front of /v1, mostly empty."""
    api_key: str = ""

    @classmethod
    def parse(cls, url: str, api_key: str = "") -> Target:
        """Of http://host:port, with or without a trailing /v1. Raises ValueError."""
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url} is not an http:// or https:// address")
        is_tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or (443 if is_tls else 80), is_tls, prefix, api_key)

    def request(self, method: str, path: str, body: bytes) -> bytes:
        """The bytes of a whole request."""
        lines = [
            f"{method} {self.prefix}{path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Accept: */*",
            f"Content-Length: {len(body)}",
        ]
        if body:
            lines.append("Content-Type: application/json")
        if self.api_key:
            lines.append(f"Authorization: Bearer {self.api_key}")
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class _Connection(asyncio.Protocol):
    """One request after another; httptools calls the on_ methods of the response."""

    def __init__(self, keeps_texts: bool) -> None:
        self._keeps_texts = keeps_texts
        self._transport: asyncio.Transport | None = None
        self._done: asyncio.Future[Answer] | None = None
        self.is_reusable = False

    def start(self, request: bytes) -> asyncio.Future[Answer]:
        """Send a request; the future gets its answer, with `error` set if it broke off."""
        self._parser = httptools.HttpResponseParser(self)
        self._frames = FrameParser(self._on_frame)
        self._is_stream = False
        self._body: list[bytes] = []
        self._now = 0.0
        self.is_reusable = False
        self._done = asyncio.get_running_loop().create_future()
        self.answer = Answer(sent=monotonic())
        if self._transport is None or self._transport.is_closing():
            self._finish("connection closed")
        else:
            self._transport.write(request)
        return self._done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        self._now = monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._finish(f"not HTTP: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            if self._is_stream or self._body:
                self.on_message_complete()  # a body without a length ends with the connection
            else:
                self._finish(f"connection lost: {exc or 'closed by the server'}")
        self.is_reusable = False

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._is_stream = value.startswith(b"text/event-stream")
        elif name == b"retry-after":
            self.answer.retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.answer.status = self._parser.get_status_code()
        self.answer.headers_at = self._now

    def on_body(self, body: bytes) -> None:
        if self._is_stream:
            self._frames.feed(body)
        else:
            self._body.append(body)

    def _on_frame(self, data: bytes) -> None:
        answer = self.answer
        if data == DONE:
            answer.is_done = True
            return
        answer.last_frame = data
        if _HAS_TEXT(data):
            answer.arrivals.append(self._now)
            if self._keeps_texts:
                answer.texts.append(data)
        elif data.startswith(b'{"error"'):
            answer.error = data.decode("utf-8", "replace")

    def on_message_complete(self) -> None:
        answer = self.answer
        if not self._is_stream:
            answer.last_frame = b"".join(self._body)
            answer.arrivals.append(self._now)
            answer.is_done = True
        self.is_reusable = self._parser.should_keep_alive()
        error = answer.error
        if not error and answer.status != 200:
            error = f"{answer.status}: {answer.last_frame[:500].decode('utf-8', 'replace')}"
        elif not error and not answer.is_done:
            error = "the stream ended without [DONE]"
        self._finish(error)

    def _finish(self, error: str) -> None:
        self.answer.error = error
        self.answer.ended = monotonic()
        if self._done is not None and not self._done.done():
            self._done.set_result(self.answer)


class LoadClient:
    """Sends requests to one target; as many at once as are awaited."""

    def __init__(
        self, target: Target, keeps_alive: bool = True, keeps_texts: bool = False, timeout_seconds: float = 600.0
    ) -> None:
        self._target = target
        self._keeps_alive = keeps_alive
        self._keeps_texts = keeps_texts
        self._timeout = timeout_seconds
        self._idle: list[_Connection] = []
        self._tls = ssl.create_default_context() if target.is_tls else None

    async def request(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Never raises for what the server or the network does: `error` of the answer says it."""
        sent = monotonic()
        try:
            connection = await self._connection()
        except OSError as error:
            return Answer(sent, ended=monotonic(), error=f"cannot connect: {error}")
        future = connection.start(self._target.request(method, path, body))
        connection.answer.sent = sent
        try:
            answer = await asyncio.wait_for(future, self._timeout)
        except (asyncio.TimeoutError, TimeoutError):
            connection.close()
            connection.answer.error = f"not finished after {self._timeout:g} s"
            connection.answer.ended = monotonic()
            return connection.answer
        except asyncio.CancelledError:
            connection.close()
            raise
        if self._keeps_alive and connection.is_reusable:
            self._idle.append(connection)
        else:
            connection.close()
        return answer

    async def post(self, path: str, body: bytes) -> Answer:
        return await self.request("POST", path, body)

    async def get(self, path: str) -> Answer:
        return await self.request("GET", path)

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_reusable:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self._keeps_texts), self._target.host, self._target.port, ssl=self._tls
        )
        return connection


def run_on_loop(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """On uvloop where there is one: half the cost of a frame."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)
