"""A light HTTP/1.1 client for load: one request a connection at a time, kept alive or not.

Under bench/serving.py and bench/chain.py. Costs little more than a system call a frame,
so that on a small machine the server is measured and not the client.
Knows nothing of what is in a body: see response.py.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httptools
from msgspec import Struct

from bench.response import Answer, Response, monotonic

Result = TypeVar("Result")


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
    """One request after another."""

    def __init__(self, on_data: Callable[[], None]) -> None:
        self._on_data = on_data
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
        self._on_data()
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
        self.num_pieces = 0
        """Of all answers, that have arrived so far; each holds some text of a stream, or a part of a whole answer."""
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

    def _count(self) -> None:
        self.num_pieces += 1

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                return connection
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            lambda: _Connection(self._count), self._target.host, self._target.port, ssl=self._tls
        )
        return connection


def run_on_loop(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """On uvloop where there is one: half the cost of a frame."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(coroutine)
    return uvloop.run(coroutine)
