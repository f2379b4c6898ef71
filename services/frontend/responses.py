"""OpenAI's Responses API: make a response. What is done with stored ones is in stored_responses.py.

The way of a request is generation.py's; what differs is in responses_protocol.py and responses_answer.py.
It may go on from responses, and refer to items, that any frontend has stored.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import msgspec

from quire.shared.errors import CANCELLED, INVALID_VALUE, ApiError
from quire.shared.messages import Accepted, ChatPrompt
from quire.shared.request_ids import response_id

from .answers import Asked, Tally, encode
from .chat_protocol import ChatRequest
from .exchange import Exchange
from .generation import Endpoint, generate
from .parsed_request import ParsedRequest
from .protocol import unsupported
from .response_store import StoredResponse
from .responses_answer import ResponseAnswer, response_of_item
from .responses_input import input_items, messages_of, referred_to, resolved
from .responses_protocol import ResponsesRequest, parse_responses, response_format_of, tools_of
from .stored_responses import find

if TYPE_CHECKING:
    from .app import Application

_MAX_REFERRED = 64
"""Responses whose items one input may refer to."""


async def create(app: Application, exchange: Exchange) -> None:
    call = _Call(app, exchange)
    try:
        await generate(app, exchange, Endpoint("chat", call.read, response_id, call.answer))
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

    async def read(self, app: Application, exchange: Exchange, body: bytes) -> ParsedRequest:
        """Raises ApiError."""
        self._request = await app.parser.parse(parse_responses, body)
        self._items = await app.parser.parse(self._input_items, body)
        if references := referred_to(self._items):
            found = await self._referred(references)
            self._items = [resolved(item, index, found) for index, item in enumerate(self._items)]
        before = await self._conversation(self._request.previous_response_id)
        return await app.parser.parse(functools.partial(self._parsed, before), body)

    def _input_items(self, body: bytes) -> list[dict[str, Any]]:
        return input_items(self._request)

    async def _referred(self, ids: set[str]) -> dict[str, dict[str, Any]]:
        """The items of those ids, as far as they are stored."""
        responses = {response_of_item(each) for each in ids} - {""}
        if len(responses) > _MAX_REFERRED:
            message = f"The input refers to items of {len(responses)} responses; {_MAX_REFERRED} are allowed."
            raise ApiError(INVALID_VALUE, message, "input")
        found: dict[str, dict[str, Any]] = {}
        for each in sorted(responses):
            items = await find(self._app, self._exchange.key_name, "items", each, "input")
            found |= {item["id"]: item for item in msgspec.json.decode(items)}
        return found

    def _parsed(self, before: list[dict[str, Any]], body: bytes) -> ParsedRequest:
        """`before`: what was said up to the response that this one follows."""
        request = self._request
        self._messages = [*before, *messages_of(self._items)]
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
            logprobs=True if request.has_logprobs else None,
            top_logprobs=request.top_logprobs if request.has_logprobs else None,
        )
        card = self._app.client.card
        marks = card.reasoning_ids if card is not None and card.reasoning_format else None
        if request.has_logprobs and marks is not None and (marks.start or not marks.ends):
            raise unsupported("top_logprobs", "of a model whose reasoning does not end at one token")
        return ParsedRequest(chat, [prompt], use)

    async def _conversation(self, previous_id: str | None) -> list[dict[str, Any]]:
        if previous_id is None:
            return []
        key_name = self._exchange.key_name
        return msgspec.json.decode(await find(self._app, key_name, "conversation", previous_id, "previous_response_id"))

    def answer(self, asked: Asked, accepted: list[Accepted], tally: Tally) -> ResponseAnswer:
        self._answer = ResponseAnswer(asked, accepted, tally, self._base(), self._keep)
        return self._answer

    def _keep(self, answer: dict[str, Any]) -> None:
        if self._request.store is False:
            return
        cancel = self._cancel if answer["status"] == "in_progress" else None
        parts = (encode(answer), encode(self._items), encode(self._messages))
        stored = StoredResponse(self._exchange.key_name, answer["status"], *parts, cancel=cancel)
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
        self._answer = None  # which refers to this

    def _base(self) -> dict[str, Any]:
        """What a response shows of its request."""
        request = self._request
        reasoning = request.reasoning
        return {
            "background": False,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "max_tool_calls": request.max_tool_calls,
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
            "top_logprobs": request.top_logprobs or 0,
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
