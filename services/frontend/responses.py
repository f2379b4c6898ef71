"""OpenAI's Responses API: make one, look one up, delete or cancel it, list its input.

The way of a request is generation.py's; what differs is in responses_protocol.py, responses_answer.py
and response_store.py. A response is in the frontend that made it: with several, another one does not know it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from quire.shared.errors import CANCELLED, INVALID_REQUEST, INVALID_VALUE, RESPONSE_NOT_FOUND, ApiError, echo
from quire.shared.messages import Accepted, ChatPrompt
from quire.shared.request_ids import response_id

from .answers import Asked, Tally, encode
from .chat_protocol import ChatRequest
from .exchange import Exchange
from .generation import Endpoint, generate
from .parsed_request import ParsedRequest
from .response_store import StoredResponse
from .responses_answer import ResponseAnswer, messages_of_output
from .responses_protocol import (
    ResponsesRequest,
    input_items,
    messages_of,
    parse_responses,
    response_format_of,
    tools_of,
)

if TYPE_CHECKING:
    from .app import Application


async def create(app: Application, exchange: Exchange) -> None:
    call = _Call(app, exchange)
    try:
        await generate(app, exchange, Endpoint("chat", call.parse, response_id, call.answer))
    except ApiError:
        if not call.is_cancelled or exchange.has_started:
            raise
        await exchange.respond(200, call.cancelled())
    finally:
        call.end()


class _Call:
    """One request on its way: what its answer shows of it, and what is stored."""

    def __init__(self, app: Application, exchange: Exchange) -> None:
        self._app = app
        self._exchange = exchange
        self._request = ResponsesRequest()
        self._items: list[dict[str, Any]] = []
        self._messages: list[dict[str, Any]] = []
        self._answer: ResponseAnswer | None = None

    def parse(self, body: bytes) -> ParsedRequest:
        """Raises ApiError."""
        request = self._request = parse_responses(body)
        self._items = input_items(request)
        self._messages = [*self._conversation(request), *messages_of(request)]
        system = [{"role": "system", "content": request.instructions}] if request.instructions else []
        use = tools_of(request)
        tools = [{"type": "function", "function": one} for one in use.functions if use.choice != "none"]
        kwargs: dict[str, Any] = {}
        effort = request.reasoning.effort if request.reasoning is not None else None
        if effort is not None:
            kwargs = {"enable_thinking": False} if effort == "none" else {"reasoning_effort": effort}
        prompt = ChatPrompt(
            messages_json=msgspec.json.encode(system + self._messages),
            tools_json=msgspec.json.encode(tools) if tools else b"",
            template_kwargs_json=msgspec.json.encode(kwargs) if kwargs else b"",
        )
        chat = ChatRequest(
            model=request.model,
            stream=request.stream,
            temperature=request.temperature,
            top_p=request.top_p,
            max_completion_tokens=request.max_output_tokens,
            response_format=response_format_of(request),
        )
        return ParsedRequest(chat, [prompt], use)

    def _conversation(self, request: ResponsesRequest) -> list[dict[str, Any]]:
        """What was said up to the response that this one follows."""
        if request.previous_response_id is None:
            return []
        stored = _stored(self._app, self._exchange, request.previous_response_id, "previous_response_id")
        if stored.answer["status"] in ("in_progress", "failed"):
            message = f"The response {echo(request.previous_response_id)} is {stored.answer['status']}."
            raise ApiError(INVALID_VALUE, message, "previous_response_id")
        return stored.messages + messages_of_output(stored.answer["output"])

    def answer(self, asked: Asked, accepted: list[Accepted], tally: Tally) -> ResponseAnswer:
        self._answer = ResponseAnswer(asked, accepted, tally, self._base(), self._keep)
        return self._answer

    def _keep(self, answer: dict[str, Any]) -> None:
        if self._request.store is False:
            return
        cancel = self._cancel if answer["status"] == "in_progress" else None
        stored = StoredResponse(self._exchange.key_name, dict(answer), self._items, self._messages, cancel=cancel)
        self._app.responses.put(answer["id"], stored)

    def _cancel(self) -> None:
        if self._answer is not None and self._exchange.cancel is not None:
            self._answer.is_cancelled = True
            self._exchange.cancel()

    @property
    def is_cancelled(self) -> bool:
        return self._answer is not None and self._answer.is_cancelled

    def cancelled(self) -> bytes:
        """What its client is told, where no stream tells it."""
        if self._answer is not None:
            self._answer.failed(ApiError(CANCELLED, "The response was cancelled."))
        return encode(self._answer.response if self._answer is not None else {})

    def end(self) -> None:
        """However it ended: nothing that is stored goes on."""
        if self._answer is not None and self._answer.response["status"] == "in_progress":
            self._answer.response["status"] = "cancelled"  # its client is gone
            self._keep(self._answer.response)

    def _base(self) -> dict[str, Any]:
        """What a response shows of its request."""
        request = self._request
        reasoning = request.reasoning
        return {
            "background": False,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": None,
            "metadata": request.metadata or {},
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": request.previous_response_id,
            "reasoning": {
                "effort": reasoning.effort if reasoning else None,
                "summary": reasoning.summary if reasoning else None,
            },
            "service_tier": request.service_tier,
            "store": request.store is not False,
            "temperature": request.temperature,
            "text": _shown_text(request),
            "tool_choice": request.tool_choice or "auto",
            "tools": [_shown(tool) for tool in request.tools or []],
            "top_logprobs": 0,
            "top_p": request.top_p,
            "truncation": "disabled",
            "user": request.user,
        }


def _shown_text(request: ResponsesRequest) -> dict[str, Any]:
    asked = request.text.format if request.text is not None else None
    if asked is None or asked.type != "json_schema":
        return {"format": {"type": "text" if asked is None else asked.type}}
    named = {"name": asked.name or "", "description": asked.description, "strict": bool(asked.strict)}
    return {"format": {"type": "json_schema", **named, "schema": asked.schema}}


def _shown(tool: Any) -> dict[str, Any]:
    found = msgspec.to_builtins(tool)
    return {**found, "strict": bool(tool.strict), "parameters": tool.parameters or {}}


def _stored(app: Application, exchange: Exchange, asked_id: str, param: str | None = None) -> StoredResponse:
    stored = app.responses.get(asked_id, exchange.key_name)
    if stored is None:
        message = (
            f"The response {echo(asked_id)} is not there: it was not stored (store: false), it was deleted or"
            " made room for others (--response-store-size), or another frontend has it."
        )
        raise ApiError(RESPONSE_NOT_FOUND, message, param)
    return stored


async def retrieve(app: Application, exchange: Exchange) -> None:
    stored = _stored(app, exchange, exchange.scope["path_params"]["id"])
    await exchange.respond(200, encode(stored.answer))


async def delete(app: Application, exchange: Exchange) -> None:
    asked_id = exchange.scope["path_params"]["id"]
    stored = _stored(app, exchange, asked_id)
    if stored.cancel is not None:
        raise ApiError(INVALID_REQUEST, f"The response {echo(asked_id)} is under way: cancel it first.")
    app.responses.delete(asked_id)
    await exchange.respond(200, encode({"id": asked_id, "object": "response", "deleted": True}))


async def by_id(app: Application, exchange: Exchange) -> None:
    await (delete if exchange.scope["method"] == "DELETE" else retrieve)(app, exchange)


async def cancel(app: Application, exchange: Exchange) -> None:
    """End one that is under way; its own client gets what there is of it."""
    asked_id = exchange.scope["path_params"]["id"]
    stored = _stored(app, exchange, asked_id)
    if stored.cancel is None and stored.answer["status"] != "cancelled":
        raise ApiError(INVALID_REQUEST, f"The response {echo(asked_id)} is {stored.answer['status']} already.")
    if stored.cancel is not None:
        stored.cancel()
        stored.cancel = None
        stored.answer["status"] = "cancelled"
    await exchange.respond(200, encode(stored.answer))


async def list_input(app: Application, exchange: Exchange) -> None:
    stored = _stored(app, exchange, exchange.scope["path_params"]["id"])
    items = [{"id": f"item_{index}", **item} for index, item in enumerate(stored.input_items)]
    first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
    body = {"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": False}
    await exchange.respond(200, encode(body))
