"""A light HTTP/1.1 client for load: one request a connection at a time, frames of an event stream timed.

Under bench/serving.py and bench/chain.py. Costs little more than a system call a frame,
so that on a small machine the server is measured and not the client.
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
_LAST_CHUNK = b"\r\n0\r\n\r\n"


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


class Response:
    """What arrives for one request; httptools calls its on_ methods.

    The reads of a chunked event stream are only noted with their times, and parsed by `parse` when all
    are there: while streams run, a frame costs little more than its system call.
    """

    def __init__(self, sent: float, keeps_texts: bool) -> None:
        self.answer = Answer(sent)
        self.is_complete = False
        self.may_stay_open = False
        self._keeps_texts = keeps_texts
        self._parser = httptools.HttpResponseParser(self)
        self._frames = FrameParser(self._on_frame)
        self._reads: list[tuple[float, bytes]] = []
        self._body: list[bytes] = []
        self._is_stream = self._is_chunked = self._is_noting = False
        self._now = 0.0

    def feed(self, data: bytes) -> bool:
        """Take a read; whether it was the last. Raises httptools.HttpParserError."""
        self._now = monotonic()
        if not self._is_noting:
            self._parser.feed_data(data)
            return self.is_complete
        self._reads.append((self._now, data))
        if len(data) < len(_LAST_CHUNK):  # the last chunk may lie across reads
            self.parse()
            return self.is_complete
        return data.endswith(_LAST_CHUNK)

    def parse(self) -> Answer:
        """The answer, whole once `feed` or `close` has ended it."""
        reads, self._reads = self._reads, []
        try:
            for self._now, data in reads:
                self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.is_complete = True
            self.end(f"not HTTP: {error}")
        return self.answer

    def close(self, cause: str) -> None:
        """The connection is gone."""
        self._now = monotonic()
        if not self._is_stream and not self._body:
            self.end(f"connection lost: {cause}")
        elif not self._is_chunked:
            self.on_message_complete()  # a body without a length ends with its connection
        else:
            self.end("the stream ended without its last chunk")

    def end(self, error: str) -> None:
        self.answer.error = self.answer.error or error
        self.answer.ended = self._now

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"content-type":
            self._is_stream = value.startswith(b"text/event-stream")
        elif name == b"transfer-encoding":
            self._is_chunked = value.lower() == b"chunked"
        elif name == b"retry-after":
            self.answer.retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.answer.status = self._parser.get_status_code()
        self.answer.headers_at = self._now
        self.may_stay_open = self._parser.should_keep_alive()
        self._is_noting = self._is_stream and self._is_chunked

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
        self.is_complete = True
        if not self._is_stream:
            answer.last_frame = b"".join(self._body)
            answer.arrivals.append(self._now)
            answer.is_done = True
        error = ""
        if answer.status != 200:
            error = f"{answer.status}: {answer.last_frame[:500].decode('utf-8', 'replace')}"
        elif not answer.is_done:
            error = "the stream ended without [DONE]"
        self.end(error)


class _Connection(asyncio.Protocol):
    """One request after another."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._response: Response | None = None
        self._done: asyncio.Future[None] | None = None
        self.is_open = True

    def start(self, request: bytes, response: Response) -> asyncio.Future[None]:
        """Send a request; the future is done when all of the response is there, or no more will come."""
        self._response = response
        self._done = asyncio.get_running_loop().create_future()
        if self._transport is None or self._transport.is_closing():
            self._finish("connection lost: closed by the server")
        else:
            self._transport.write(request)
        return self._done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            return
        try:
            if response.feed(data):
                self._finish("")
        except httptools.HttpParserError as error:
            self._finish(f"not HTTP: {error}")
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._response is not None:
            self._response.parse()
            if not self._response.is_complete:
                self._response.close(str(exc or "closed by the server"))
            self._finish("")

    def close(self) -> None:
        self.is_open = False
        if self._transport is not None:
            self._transport.close()

    def _finish(self, error: str) -> None:
        response, self._response = self._response, None
        if response is not None and error:
            response.end(error)
        if self._done is not None and not self._done.done():
            self._done.set_result(None)


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
        return (await self.unparsed(method, path, body)).parse()

    async def unparsed(self, method: str, path: str, body: bytes = b"") -> Response:
        """As `request`, with the parsing (`parse`) left for when nobody is being timed."""
        response = Response(monotonic(), self._keeps_texts)
        try:
            connection = await self._connection()
        except OSError as error:
            response.close("")
            response.answer.error = f"cannot connect: {error}"
            return response
        future = connection.start(self._target.request(method, path, body), response)
        try:
            await asyncio.wait_for(future, self._timeout)
        except (asyncio.TimeoutError, TimeoutError):
            connection.close()
            response.end(f"not finished after {self._timeout:g} s")
            return response
        except asyncio.CancelledError:
            connection.close()
            raise
        if self._keeps_alive and connection.is_open and response.may_stay_open:
            self._idle.append(connection)
        else:
            connection.close()
        return response

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
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._target.host, self._target.port, ssl=self._tls)
        return connection


def run_on_loop(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """On uvloop where there is one: half the cost of a frame."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)
