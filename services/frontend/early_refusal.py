"""Refusals at the door without the application: for a request whose headers have come, while the door is shut.

Asked by http_connection.py before uvicorn makes a task of a request, so that a storm costs those who are
admitted little. What is said, and in which order it is checked, is the application's own: what is not
refused here goes the ordinary way, and so does every other error. Knows no sockets and no bodies.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any

from quire.shared.errors import ApiError

from .anthropic import authorization_of
from .authentication import check_host
from .exchange import JSON, Exchange, Headers

if TYPE_CHECKING:
    from .app import Application

THROUGH_THE_DOOR = frozenset(
    {
        b"/v1/chat/completions",
        b"/v1/completions",
        b"/v1/messages",
        b"/v1/messages/count_tokens",
        b"/v1/responses",
        b"/tokenize",
        b"/detokenize",
    }
)
"""Paths of which a POST takes a place (see Admission)."""

Answer = tuple[int, Headers, bytes]
"""Status, headers, body."""


class EarlyRefusals:
    """The application's door, asked without awaiting anything."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def answer(self, path: bytes, headers: Headers) -> Answer | None:
        """To a POST of which nothing but its headers is known; None: it is not refused, or not for the door's sake."""
        if path not in THROUGH_THE_DOOR:
            return None
        app = self._app
        scope = {"path": path.decode(), "raw_path": path, "headers": headers}
        exchange = app.exchange_of(scope, _nothing, _nowhere)
        try:
            check_host(headers)
            key = app.keys.check(path, authorization_of(exchange))
            size = exchange.declared_size(app.config.max_body_size)
        except ApiError:
            return None
        try:
            card = app.look()
            app.admission.check(card, key, app.admission.unread(card, size))
        except ApiError as error:
            return self._refuse(exchange, error)
        return None

    def _refuse(self, exchange: Exchange, error: ApiError) -> Answer:
        app = self._app
        app.errors.note(error, exchange.request_id.decode())
        app.request_log.count_refused(error.code)
        app.count_response(error.status)
        headers, body = exchange.error_answer(error)
        length = (b"content-length", b"%d" % len(body))
        return error.status, [(b"content-type", JSON), length, *headers, *app.goodbye, *exchange.common_headers], body


async def _nothing() -> MutableMapping[str, Any]:
    raise NotImplementedError("nothing is read of a request that is refused early")


async def _nowhere(message: MutableMapping[str, Any]) -> None:
    raise NotImplementedError("an early refusal is written by its connection")
