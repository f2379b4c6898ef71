"""GET /openapi.json: the API as an OpenAPI 3.1 document, made of the structs that check and describe it.

Request bodies come from the request structs and their bounds, answers from answer_shapes.py, statuses
from the table of errors, so that the document cannot say anything else than the server does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from quire import __version__
from quire.shared.errors import KINDS

from . import answer_shapes as shapes
from . import anthropic_shapes as anthropic
from . import response_shapes as response
from .answers import encode
from .anthropic_protocol import CountRequest, MessagesRequest
from .chat_protocol import ChatRequest
from .completion_protocol import CompletionRequest
from .exchange import Exchange
from .openapi_schema import Schema, Schemas
from .responses_protocol import ResponsesRequest
from .tokenization import DetokenizeRequest, TokenizeRequest

if TYPE_CHECKING:
    from .app import Application

_REFERENCE = "#/components/schemas/{name}"
_REQUEST_ID = {
    "description": "The request's id: the client's X-Request-Id if it sent a sane one.",
    "schema": {"type": "string"},
}
_RETRY_AFTER = {"description": "Seconds after which to try again.", "schema": {"type": "integer", "minimum": 1}}
_SHOULD_RETRY = {"description": "false: the SDKs do not try again.", "schema": {"type": "string"}}
_COMMON = (400, 401, 404, 405, 408, 431, 500)
"""Statuses that any route can answer with."""
_GENERATING = (413, 415, 429, 503)
_TEXT = {"type": "string"}


class Operation(msgspec.Struct, frozen=True):
    """One method of one path."""

    summary: str
    answer: type | None = None
    """None: text, of type `text`."""
    body: type[msgspec.Struct] | None = None
    chunk: type | None = None
    """The data of each event, with stream: true."""
    errors: tuple[int, ...] = ()
    unready: type | None = None
    """What a 503 holds, where that is no plain error."""
    is_open: bool = False
    text: str = "text/plain"
    error: type = shapes.Error
    has_done: bool = True
    """A stream's last data is [DONE]."""


_READY = Operation("Whether a request would be taken", shapes.Ready, unready=shapes.NotReady, is_open=True)
OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/chat/completions"): Operation(
        "Answer a conversation", shapes.ChatCompletion, ChatRequest, shapes.ChatCompletionChunk, _GENERATING
    ),
    ("POST", "/v1/completions"): Operation(
        "Continue texts or token ids", shapes.Completion, CompletionRequest, shapes.CompletionChunk, _GENERATING
    ),
    ("POST", "/v1/messages"): Operation(
        "Answer a conversation, in Anthropic's form",
        anthropic.AnthropicAnswerMessage,
        MessagesRequest,
        anthropic.AnthropicEvent,
        _GENERATING,
        error=anthropic.AnthropicError,
        has_done=False,
    ),
    ("POST", "/v1/messages/count_tokens"): Operation(
        "Count the tokens of a conversation, in Anthropic's form",
        anthropic.CountedTokens,
        CountRequest,
        errors=_GENERATING,
        error=anthropic.AnthropicError,
    ),
    ("POST", "/v1/responses"): Operation(
        "Answer a conversation, in the form of OpenAI's Responses",
        response.Response,
        ResponsesRequest,
        response.ResponseEvent,
        _GENERATING,
        has_done=False,
    ),
    ("GET", "/v1/responses/{id}"): Operation("A stored response", response.Response),
    ("DELETE", "/v1/responses/{id}"): Operation("Forget a stored response", response.DeletedResponse),
    ("POST", "/v1/responses/{id}/cancel"): Operation("End a response that is under way", response.Response),
    ("GET", "/v1/responses/{id}/input_items"): Operation("What a stored response was made of", response.InputItems),
    ("POST", "/tokenize"): Operation("Tokens of a text or a chat", shapes.Tokens, TokenizeRequest, errors=_GENERATING),
    ("POST", "/detokenize"): Operation(
        "The text of tokens", shapes.DetokenizedText, DetokenizeRequest, errors=_GENERATING
    ),
    ("GET", "/v1/models"): Operation("The served names", shapes.ModelList, errors=(503,)),
    ("GET", "/v1/models/{id}"): Operation("One served name", shapes.Model, errors=(503,)),
    ("GET", "/health"): _READY,
    ("GET", "/ready"): _READY,
    ("GET", "/ping"): _READY,
    ("POST", "/ping"): _READY,
    ("GET", "/health/live"): Operation("Whether this process turns its loop", shapes.Empty, is_open=True),
    ("GET", "/"): Operation("The chat page", is_open=True, text="text/html"),
    ("GET", "/version"): Operation("The server's version", shapes.Version),
    ("GET", "/metrics"): Operation("Metrics of all processes, in Prometheus' text format"),
    ("GET", "/status"): Operation("Every process, and the limits in force", shapes.Status),
    ("GET", "/openapi.json"): Operation("This document", dict[str, Any]),
}


async def openapi(app: Application, exchange: Exchange) -> None:
    """The document of this server; whether keys are needed is part of it."""
    has_keys = bool(app.config.api_key or app.config.api_key_file)
    await exchange.respond(200, encode(document(has_keys, app.config.open_metrics)))


def document(has_keys: bool = False, has_open_metrics: bool = False) -> Schema:
    """The whole document, as JSON values."""
    requests = Schemas()
    kinds = [kind for one in OPERATIONS.values() for kind in (one.answer, one.chunk, one.unready, one.error)]
    answers = [kind for kind in dict.fromkeys(kinds) if kind is not None]
    _, answer_schemas = msgspec.json.schema_components(answers, ref_template=_REFERENCE)
    paths: dict[str, Schema] = {}
    for (method, path), operation in OPERATIONS.items():
        is_open = not has_keys or operation.is_open or (has_open_metrics and path == "/metrics")
        paths.setdefault(path, {})[method.lower()] = _operation(method, path, operation, requests, is_open)
    components: Schema = {"schemas": {**answer_schemas, **requests.found}}
    if has_keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Quire",
            "version": __version__,
            "description": "OpenAI-compatible serving of a language model. null means a field's default, and fields"
            " that are not listed are ignored.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": components,
    }


def _operation(method: str, path: str, operation: Operation, requests: Schemas, is_open: bool) -> Schema:
    name = path.strip("/").replace("/", "_").replace("{", "").replace("}", "").replace(".", "_") or "page"
    found: Schema = {
        "operationId": f"{method.lower()}_{name}",
        "summary": operation.summary,
        "responses": {"200": _answer(operation), **_errors(operation, is_open)},
        "security": [] if is_open else [{"key": []}],
    }
    if "{id}" in path:
        schema = {"type": "string", "minLength": 1, "maxLength": 256}
        is_name = path.startswith("/v1/models")
        description = "A served name; it may hold slashes." if is_name else "Of a response."
        found["parameters"] = [
            {"name": "id", "in": "path", "required": True, "schema": schema, "description": description}
        ]
    if operation.body is not None:
        content = {"application/json": {"schema": requests.of(operation.body)}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _answer(operation: Operation) -> Schema:
    content: Schema = {operation.text: {"schema": _TEXT}}
    description = "The answer."
    if operation.answer is not None:
        content = {"application/json": {"schema": _reference(operation.answer)}}
    if operation.chunk is not None:
        name = operation.chunk.__name__
        description = (
            f"With stream: true, server-sent events: the data of each is a {name} (or, if it fails on the way, an"
            f" {operation.error.__name__}, after which the connection closes)"
            f"{'; the last is [DONE]' if operation.has_done else ''}. Without, one whole answer."
        )
        content["text/event-stream"] = {"schema": {**_TEXT, "contentSchema": _reference(operation.chunk)}}
    return {"description": description, "headers": {"x-request-id": _REQUEST_ID}, "content": content}


def _errors(operation: Operation, is_open: bool) -> Schema:
    found: Schema = {}
    statuses = {*_COMMON, *operation.errors, *([503] if operation.unready else [])}
    for status in sorted(statuses - ({401} if is_open else set())):
        codes = ", ".join(sorted(kind.code for kind in KINDS.values() if kind.status == status))
        kind = operation.unready if status == 503 and operation.unready else operation.error
        headers: Schema = {"x-request-id": _REQUEST_ID}
        if status in (429, 503):
            headers["retry-after"] = _RETRY_AFTER
        if status == 500:
            headers["x-should-retry"] = _SHOULD_RETRY
        if status in (408, 431) or (status == 400):
            del headers["x-request-id"]  # may be said before the request has an id
        content = {"application/json": {"schema": _reference(kind)}}
        found[str(status)] = {"description": f"code: {codes}.", "headers": headers, "content": content}
        if not headers:
            del found[str(status)]["headers"]
    return found


def _reference(kind: Any) -> Schema:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {"$ref": _REFERENCE.format(name=kind.__name__)}
    return {"type": "object"}
