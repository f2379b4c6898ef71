"""The ASGI application: routes, and what holds for every one of them.

Where a request enters Quire. Gives it an id, checks Host and key, finds its handler, and turns every
error into OpenAI's envelope. Knows no field of a body and no chunk of an answer.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router

from quire.shared.config import FrontendConfig
from quire.shared.errors import (
    INTERNAL_ERROR,
    METHOD_NOT_ALLOWED,
    NOT_FOUND,
    SERVICE_UNAVAILABLE,
    ApiError,
    echo,
)
from quire.shared.messages import ModelCard
from quire.shared.metrics import Metrics
from quire.shared.request_ids import RequestIds
from quire.shared.service import Service

from . import field_limits, operations, responses, stored_responses
from .admission import Admission
from .anthropic import authorization_of, is_anthropic, messages, speak_anthropic
from .authentication import Keys, check_host
from .body_parsing import BodyParser
from .exchange import Exchange, Headers, Receive, Scope, Send
from .generation import CHAT, COMPLETION, generate
from .health import Health
from .listener import Listener
from .mailbox import ClientGone
from .openapi import openapi
from .playground import playground
from .recent_errors import RecentErrors
from .request_log import RequestFacts, RequestLog
from .response_store import ResponseStore
from .siblings import Siblings
from .spans import Spans
from .status import status
from .streaming import Watchdog
from .tokenization import count_tokens, detokenize, tokenize
from .tokenizer_client import TokenizerClient
from .turnstile import Turnstile

logger = logging.getLogger("quire.frontend")

_CLIENT_GONE = 499
"""In logs only: nobody was there for a status."""

Handler = Callable[["Application", Exchange], Awaitable[None]]


async def _chat_completions(app: Application, exchange: Exchange) -> None:
    await generate(app, exchange, CHAT)


async def _completions(app: Application, exchange: Exchange) -> None:
    await generate(app, exchange, COMPLETION)


ROUTES: list[tuple[str, tuple[str, ...], Handler]] = [
    ("/", ("GET",), playground),
    ("/v1/chat/completions", ("POST",), _chat_completions),
    ("/v1/completions", ("POST",), _completions),
    ("/v1/messages", ("POST",), messages),
    ("/v1/messages/count_tokens", ("POST",), count_tokens),
    ("/v1/responses", ("POST",), responses.create),
    ("/v1/responses/{id}", ("GET", "DELETE"), stored_responses.by_id),
    ("/v1/responses/{id}/cancel", ("POST",), stored_responses.cancel),
    ("/v1/responses/{id}/input_items", ("GET",), stored_responses.list_input),
    ("/tokenize", ("POST",), tokenize),
    ("/detokenize", ("POST",), detokenize),
    ("/v1/models", ("GET",), operations.models),
    ("/v1/models/{id:path}", ("GET",), operations.model),
    ("/health", ("GET",), operations.ready),
    ("/health/live", ("GET",), operations.live),
    ("/ready", ("GET",), operations.ready),
    ("/ping", ("GET", "POST"), operations.ready),
    ("/version", ("GET",), operations.show_version),
    ("/metrics", ("GET",), operations.metrics),
    ("/status", ("GET",), status),
    ("/openapi.json", ("GET",), openapi),
]


class _Endpoint:
    """A handler as an ASGI application, which is what Starlette's routes call without wrapping."""

    def __init__(self, app: Application, handler: Handler) -> None:
        self._app = app
        self._handler = handler

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._handler(self._app, scope["quire.exchange"])


class Application:
    """The frontend's state that handlers share, callable as an ASGI application."""

    def __init__(
        self,
        service: Service[FrontendConfig],
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
        keys: Keys,
        listener: Listener,
    ) -> None:
        self.service = service
        self.config = service.config
        field_limits.use(service.config)
        self.metrics = metrics
        self.loop = loop
        self.started = time.monotonic()
        self.ids = RequestIds()
        self.client = TokenizerClient(service, metrics, loop)
        self.health = Health(self.client.known, self.config.stall_limit)
        self.admission = Admission(self.config, metrics)
        self.watchdog = Watchdog(self.config.keep_alive_interval, self.config.stall_timeout, loop)
        self.listener = listener
        self.parser = BodyParser(loop)
        self.turnstile = Turnstile(loop)
        self.errors = RecentErrors()
        self.request_log = RequestLog()
        self.spans = Spans.of(self.config, service.name)
        self.keys = keys
        self.parting_headers: Headers = []
        """Empty unless this frontend leaves."""
        self.report: Callable[[], None] = lambda: None
        """Tells all others how this frontend is, now."""
        self.responses = ResponseStore(self.config.response_store_size)
        find = functools.partial(stored_responses.look_up, self.responses)
        self.siblings = Siblings(service.name, self.client, find, self.responses.put, loop)
        self._router = Router(
            [Route(path, _Endpoint(self, handler), methods=list(methods)) for path, methods, handler in ROUTES],
            redirect_slashes=False,
        )

    @property
    def is_ready(self) -> bool:
        return not self.admission.is_draining and self.client.card is not None and not self.health.trouble

    @property
    def waiting_for(self) -> str:
        """What keeps this server from being ready, for people."""
        if self.admission.is_draining:
            return "it is shutting down"
        if trouble := self.health.trouble:
            return trouble
        awaited = self.client.known.awaited
        if awaited is None:
            return "waiting for a tokenizer"
        detail = f": {awaited.detail}" if awaited.detail else ""
        return f"waiting for {awaited.name} ({awaited.state}{detail})"

    def look(self) -> ModelCard:
        """The served model, if the door may open at all. Raises ApiError (503)."""
        return self.admission.look(self.client.card, lambda: self.waiting_for)

    def require_card(self) -> ModelCard:
        card = self.client.card
        if card is None:
            message = f"The server is not ready: {self.waiting_for}."
            raise ApiError(SERVICE_UNAVAILABLE, message, retry_after_seconds=1)
        return card

    def samples(self) -> dict[str, float]:
        self.metrics.gauge("quire_requests_in_flight").set(self.admission.num_in_flight)
        self.metrics.gauge("quire_connections").set(self.listener.num_connections)
        self.metrics.gauge("quire_stream_buffer_bytes").set(self.watchdog.num_unsent_bytes)
        return self.metrics.snapshot()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = self.exchange_of(scope, receive, send)
        try:
            await self._handle(exchange, receive, send)
        except ApiError as error:
            await self._fail(exchange, error)
        except ClientGone:
            if exchange.facts is not None and exchange.facts.outcome == "ok":
                exchange.facts.outcome = "client_gone"
        except Exception:
            logger.exception("request %s failed", exchange.request_id.decode())
            await self._fail(exchange, ApiError(INTERNAL_ERROR, "The server failed to answer this request."))
        finally:
            if exchange.facts is not None:
                self._tell(exchange, exchange.facts)
            if exchange.status:
                self.count_response(exchange.status)
            # Nothing of a request may refer back to itself, or only the garbage collector ends it: see test_garbage.
            scope.pop("quire.exchange", None)

    def exchange_of(self, scope: Scope, receive: Receive, send: Send) -> Exchange:
        exchange = Exchange(scope, receive, send, f"req-{self.ids.next():016x}")
        exchange.common_headers += self._cors_headers(exchange)
        exchange.parting_headers = self.parting_headers
        if is_anthropic(scope["path"]):
            speak_anthropic(exchange)
        return exchange

    def count_response(self, status: int) -> None:
        self.metrics.counter("quire_http_responses_total", status=str(status)).add()

    async def _handle(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        scope = exchange.scope
        check_host(scope["headers"])
        if scope["method"] == "OPTIONS":
            await exchange.respond(204, b"", headers=self._preflight_headers(exchange))
            return
        exchange.key_name = self.keys.check(scope["raw_path"], authorization_of(exchange))
        scope["app"] = self
        scope["quire.exchange"] = exchange
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            raise _routing_error(error, scope) from None

    def _tell(self, exchange: Exchange, facts: RequestFacts) -> None:
        """The request has ended."""
        facts.status = exchange.status or _CLIENT_GONE
        facts.ended_at = time.time()
        if self.request_log.write(facts) and self.spans is not None:
            self.spans.write(exchange, facts)

    async def _fail(self, exchange: Exchange, error: ApiError) -> None:
        if exchange.facts is not None:
            exchange.facts.outcome = error.code
        self.errors.note(error, exchange.request_id.decode())
        if exchange.has_started:
            return
        headers = self.goodbye
        if error.status == 405:
            headers = [*headers, (b"allow", ", ".join(_methods_of(exchange.scope["path"])).encode())]
        await exchange.respond_error(error, headers)

    @property
    def goodbye(self) -> Headers:
        """What every error's headers say while the server shuts down."""
        return [(b"connection", b"close")] if self.admission.is_draining else []

    def _cors_headers(self, exchange: Exchange) -> Headers:
        allowed = self.config.cors_origin
        origin = exchange.header(b"origin")
        if not allowed or origin is None:
            return []
        if "*" in allowed:
            origin = b"*"
        elif origin.decode("latin-1") not in allowed:
            return [(b"vary", b"Origin")]
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-expose-headers", b"x-request-id, retry-after, x-should-retry"),
            (b"vary", b"Origin"),
        ]

    def _preflight_headers(self, exchange: Exchange) -> Headers:
        methods = _methods_of(exchange.scope["path"]) or ["GET", "POST"]
        allow = ", ".join([*methods, "OPTIONS"]).encode()
        headers: Headers = [(b"allow", allow)]
        if any(name == b"access-control-allow-origin" for name, _ in exchange.common_headers):
            asked = exchange.header(b"access-control-request-headers")
            headers += [
                (b"access-control-allow-methods", allow),
                (b"access-control-allow-headers", asked or b"authorization, content-type, x-request-id"),
                (b"access-control-max-age", b"600"),
            ]
        return headers


def _methods_of(path: str) -> list[str]:
    """The methods a path takes; empty for an unknown one."""
    for known, methods, _ in ROUTES:
        if _is_at(known, path):
            return [*methods, "HEAD"] if "GET" in methods else list(methods)
    return []


def _is_at(known: str, path: str) -> bool:
    prefix = known.partition("{")[0]
    if known.endswith(":path}"):
        return path.startswith(prefix) and len(path) > len(prefix)
    steps, given = known.split("/"), path.split("/")
    if len(steps) != len(given):
        return False
    return all(step == one or (step.startswith("{") and one) for step, one in zip(steps, given, strict=True))


def _routing_error(error: HTTPException, scope: Scope) -> ApiError:
    path = echo(scope["path"])
    if error.status_code == 405:
        message = f"{scope['method']} is not allowed on {path}; allowed: {', '.join(_methods_of(scope['path']))}."
        return ApiError(METHOD_NOT_ALLOWED, message)
    return ApiError(NOT_FOUND, f"There is nothing at {path}.")
