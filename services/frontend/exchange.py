"""One HTTP request and its response, as the handlers see them.

A thin layer over raw ASGI: reads the body within its limit, sends answers and errors with the
headers every response carries, and notices when the client is gone. Knows no route.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from quire.shared.errors import BODY_TOO_LARGE, UNSUPPORTED_MEDIA_TYPE, ApiError

from .mailbox import ClientGone
from .request_log import RequestFacts

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
_SANE_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


class Exchange:
    """`request_id` is the client's X-Request-Id if it sent a sane one, else `own_id`."""

    __slots__ = (
        "_receive",
        "cancel",
        "common_headers",
        "facts",
        "has_own_id",
        "has_started",
        "key_name",
        "parting_headers",
        "request_id",
        "scope",
        "send",
        "status",
        "write_error",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send, own_id: str) -> None:
        self.scope = scope
        self._receive = receive
        self.send = send
        """Raw ASGI; waits while the client takes nothing and much is unsent."""
        given = self.header(b"x-request-id")
        self.has_own_id = given is None or _SANE_ID.fullmatch(given) is None
        """Whether `request_id` is ours, so that the body may still name another."""
        self.request_id = own_id.encode() if given is None or self.has_own_id else given
        self.common_headers: Headers = [(b"x-request-id", self.request_id)]
        self.parting_headers: Sequence[tuple[bytes, bytes]] = ()
        """Of every response that begins while this frontend leaves."""
        self.facts: RequestFacts | None = None
        """For the log, of a request that has some."""
        self.cancel: Callable[[], None] | None = None
        """Ends what runs for it, with an error; set while something does."""
        self.has_started = False
        self.status = 0
        self.write_error: Callable[[ApiError, str], bytes] = _openai_error
        """The body of an error, which is given with the request's id."""
        self.key_name = ""
        """A hash of the API key; empty when there are no keys."""

    def header(self, name: bytes) -> bytes | None:
        for key, value in self.scope["headers"]:
            if key == name:
                return value
        return None

    def name(self, request_id: str) -> None:
        """What the body calls itself, of characters as in the header, which wins."""
        if self.has_own_id:
            self.request_id = request_id.encode()
            self.common_headers[0] = (b"x-request-id", self.request_id)
            if self.facts is not None:
                self.facts.request_id = request_id

    def declared_size(self, max_size_bytes: int) -> int | None:
        """Bytes that the body will have, if it says so. Raises ApiError (413)."""
        length = self.header(b"content-length")
        if length is None or not length.isdigit():
            return None
        if int(length) > max_size_bytes:
            raise _too_large(max_size_bytes)
        return int(length)

    async def read_json(self, max_size_bytes: int) -> bytes:
        """The whole body. Raises ApiError (413, 415) or ClientGone."""
        kind = self.header(b"content-type")
        if kind is not None and kind.partition(b";")[0].strip().lower() != JSON:
            message = "The body must be sent as Content-Type: application/json."
            raise ApiError(UNSUPPORTED_MEDIA_TYPE, message)
        if (self.header(b"content-encoding") or b"identity").lower() != b"identity":
            raise ApiError(UNSUPPORTED_MEDIA_TYPE, "The body must be sent without Content-Encoding.")
        body = b""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            body = message.get("body", b"")
            size += len(body)
            if size > max_size_bytes:
                raise _too_large(max_size_bytes)
            if not message.get("more_body", False):
                break
            parts.append(body)
        return b"".join([*parts, body]) if parts else body

    async def wait_until_gone(self) -> None:
        """Returns when the client has closed the connection (or the response is complete)."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        self.has_started = True
        self.status = status
        all_headers = [*headers, *self.common_headers, *self.parting_headers]
        await self.send({"type": "http.response.start", "status": status, "headers": all_headers})

    async def respond(
        self, status: int, body: bytes, content_type: bytes = JSON, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        """A whole response."""
        length = (b"content-length", b"%d" % len(body))
        kind = [(b"content-type", content_type)] if body else []
        await self.start(status, [*kind, length, *headers])
        await self.send({"type": "http.response.body", "body": body, "more_body": False})

    async def respond_error(self, error: ApiError, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
        extra, body = self.error_answer(error)
        await self.respond(error.status, body, headers=[*extra, *headers])

    def error_answer(self, error: ApiError) -> tuple[Headers, bytes]:
        """What the headers of an error say beside its type and length, and its body."""
        extra: Headers = []
        if error.retry_after_seconds is not None:
            extra.append((b"retry-after", b"%d" % max(1, min(60, round(error.retry_after_seconds)))))
        if error.status == 500:  # what can be tried again was; SDKs would send twice more what may crash the engine
            extra.append((b"x-should-retry", b"false"))
        if error.status == 401:
            extra.append((b"www-authenticate", b"Bearer"))
        if error.status == 413:
            extra.append((b"connection", b"close"))  # the rest of the body is not read
        return extra, self.write_error(error, self.request_id.decode())


def _openai_error(error: ApiError, request_id: str) -> bytes:
    return error.envelope()


def _too_large(max_size_bytes: int) -> ApiError:
    return ApiError(BODY_TOO_LARGE, f"The request body is larger than {max_size_bytes} bytes (--max-body-size).")
