"""A Responses request: its fields, and the chat that they and a stored conversation make.

Decodes the body of POST /v1/responses, checks it, and writes its items as the messages that chat
templates know. Knows nothing of templates or of the answer.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from quire.shared.errors import INVALID_VALUE, MISSING_PARAMETER, UNSUPPORTED_VALUE, ApiError, echo

from .bounds import MAX_ID, Choice, Items, Json, Number, Text, check, out_of_bounds
from .chat_protocol import MESSAGES
from .chat_tools import OBJECT, ToolFunction, ToolUse
from .constraint_fields import JsonSchema, ResponseFormat
from .protocol import ABSENT, LOGPROBS, decode, json_of, refuse_unsupported, unsupported

_ROLES = ("user", "assistant", "system", "developer")
_LARGE_TEXT = Text(0, 64 << 20)
"""The body's own limit is lower and decides."""
_REFUSED = Json(64 << 10, is_refused=True)
_MAX_PARTS = 2048


_LOGPROBS = "message.output_text.logprobs"
_INCLUDABLE = (
    _LOGPROBS,
    "reasoning.encrypted_content",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
)
"""What OpenAI's clients ask for; all but the first is of things that no answer of ours has."""


class ResponsePart(msgspec.Struct):
    type: Annotated[str, Text(1, 64)]
    text: Annotated[str | None, _LARGE_TEXT] = None
    refusal: Annotated[str | None, _LARGE_TEXT] = None


_Parts = Annotated[str | list[ResponsePart] | None, _LARGE_TEXT, Items(0, _MAX_PARTS)]


class ResponseItem(msgspec.Struct):
    """An item of any type; which fields it needs is its type's matter."""

    type: Annotated[str | None, Text(1, 64)] = None
    """A message, if there is none; or a reference, if there is an id and no role."""
    id: Annotated[str | None, Text(0, 256)] = None
    role: Annotated[str | None, Choice(_ROLES)] = None
    content: _Parts = None
    call_id: Annotated[str | None, Text(1, 256)] = None
    name: Annotated[str | None, Text(1, 256)] = None
    arguments: Annotated[str | None, _LARGE_TEXT] = None
    output: _Parts = None
    summary: _Parts = None


Input = Annotated[str | list[ResponseItem], _LARGE_TEXT, MESSAGES]


class ResponseTool(msgspec.Struct):
    type: Annotated[str, Text(1, 64)]
    name: Annotated[str | None, Text(1, 64, of="a-zA-Z0-9_.-")] = None
    description: Annotated[str | None, Text(0, 64 << 10)] = None
    parameters: Annotated[dict[str, Any] | None, OBJECT] = None
    strict: bool | None = None


class ChosenTool(msgspec.Struct):
    type: Annotated[str, Text(1, 64)]
    name: Annotated[str | None, Text(1, 64)] = None


class ResponseTextFormat(JsonSchema):
    """json_schema has its schema here and not, as in chats, one level below."""

    type: Annotated[str, Choice(("text", "json_object", "json_schema"))] = "text"


class ResponseText(msgspec.Struct):
    format: ResponseTextFormat | None = None
    verbosity: Annotated[str | None, Text(0, 64)] = None


class ResponseReasoning(msgspec.Struct):
    effort: Annotated[str | None, Choice(("none", "minimal", "low", "medium", "high", "xhigh", "max"))] = None
    summary: Annotated[str | None, Text(0, 64)] = None


class ResponsesRequest(msgspec.Struct, kw_only=True):
    """The body of POST /v1/responses. null means the default, unknown fields are ignored."""

    model: Annotated[str | None, Text(0, 256)] = None
    input: Annotated[msgspec.Raw, Json(64 << 20, Input, is_required=True)] = ABSENT
    instructions: Annotated[str | None, _LARGE_TEXT] = None
    previous_response_id: Annotated[str | None, Text(1, 64)] = None
    store: bool | None = None
    stream: bool | None = None
    max_output_tokens: Annotated[int | None, Number(1, MAX_ID)] = None
    temperature: Annotated[float | None, Number(0, 2)] = None
    top_p: Annotated[float | None, Number(0, 1, is_open=True)] = None
    tools: Annotated[list[ResponseTool] | None, Items(0, setting="max_tools")] = None
    tool_choice: Annotated[str | ChosenTool | None, Choice(("none", "auto", "required"))] = None
    parallel_tool_calls: bool | None = None
    text: ResponseText | None = None
    reasoning: ResponseReasoning | None = None
    metadata: Annotated[dict[str, str] | None, Items(0, 16, Text(0, 512), keys=Text(0, 64))] = None
    truncation: Annotated[str | None, Choice(("auto", "disabled"))] = None
    top_logprobs: Annotated[int | None, LOGPROBS] = None
    include: Annotated[list[str] | None, Items(0, 16, Choice(_INCLUDABLE))] = None
    background: bool | None = None
    user: Annotated[str | None, Text(0, 512)] = None
    service_tier: Annotated[str | None, Text(0, 64)] = None
    max_tool_calls: Annotated[int | None, Number(1, MAX_ID)] = None
    """Of built-in tools, which this server does not have."""
    conversation: Annotated[msgspec.Raw, _REFUSED] = ABSENT
    prompt: Annotated[msgspec.Raw, _REFUSED] = ABSENT

    @property
    def has_logprobs(self) -> bool:
        return self.top_logprobs is not None or _LOGPROBS in (self.include or [])


_decoder = msgspec.json.Decoder(ResponsesRequest)


def parse_responses(body: bytes) -> ResponsesRequest:
    """The checked fields. Raises ApiError."""
    request = decode(body, _decoder)
    check(request)
    refuse_unsupported(request)
    if not json_of(request.input):
        raise ApiError(MISSING_PARAMETER, "input is required.", "input")
    if request.background:
        raise unsupported("background", "mode")
    if request.truncation == "auto":
        raise unsupported("truncation", "'auto'")
    if request.has_logprobs and request.tools and request.tool_choice != "none":
        field = "include" if request.top_logprobs is None else "top_logprobs"
        raise unsupported(field, "of answers that may be calls")
    asked = request.text.format if request.text is not None else None
    if asked is not None and asked.type == "json_schema" and not json_of(asked.schema):
        raise ApiError(MISSING_PARAMETER, "text.format.schema is required.", "text.format.schema")
    return request


def response_format_of(request: ResponsesRequest) -> ResponseFormat | None:
    """text.format as chats have it."""
    asked = request.text.format if request.text is not None else None
    if asked is None or asked.type == "text":
        return None
    return ResponseFormat(asked.type, JsonSchema(schema=asked.schema) if asked.type == "json_schema" else None)


def tools_of(request: ResponsesRequest) -> ToolUse:
    """What may be called. Raises ApiError."""
    chosen = request.tool_choice
    choice = "named" if isinstance(chosen, ChosenTool) else chosen or "auto"
    name = chosen.name or "" if isinstance(chosen, ChosenTool) else ""
    if isinstance(chosen, ChosenTool) and chosen.type != "function":
        raise unsupported("tool_choice", f"of type {echo(chosen.type)}")
    if not request.tools:
        if choice in ("required", "named"):
            raise ApiError(INVALID_VALUE, "tool_choice is only allowed together with tools.", "tool_choice")
        return ToolUse()
    functions = []
    for index, tool in enumerate(request.tools):
        if tool.type != "function":
            message = f"tools[{index}] has the type {echo(tool.type)}; only function tools are supported."
            raise ApiError(UNSUPPORTED_VALUE, message, f"tools[{index}].type")
        if not tool.name:
            raise ApiError(MISSING_PARAMETER, f"tools[{index}].name is required.", f"tools[{index}].name")
        functions.append(ToolFunction(tool.name, tool.description, tool.parameters, tool.strict))
    if choice == "named" and name not in [function.name for function in functions]:
        raise out_of_bounds("tool_choice.name", f"must be one of the tools, got {echo(name)}")
    return ToolUse(functions, choice, name, request.parallel_tool_calls is not False)
