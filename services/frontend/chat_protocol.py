"""A chat completion's request: its fields, its messages, and the prompt they make.

Decodes the body of POST /v1/chat/completions. Messages and tools are checked here and travel on as
the JSON the client sent, for the checkpoint's template. Knows nothing of templates or tokens.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from quire.shared.errors import INVALID_VALUE, MISSING_PARAMETER, UNSUPPORTED_VALUE, ApiError, echo
from quire.shared.messages import ChatPrompt

from .bounds import MAX_ID, Choice, Items, Json, Number, Text
from .chat_tools import OBJECT, Tools, ToolUse, tool_use
from .other_fields import PLAIN, refused
from .protocol import (
    ABSENT,
    LOGPROBS,
    GenerationRequest,
    check_shared,
    decode,
    decode_part,
    json_of,
    unsupported,
)

MESSAGES = Items(1, setting="max_messages")
_MAX_PARTS = 2048
_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_MAX_TEXT_BYTES = 64 << 20
"""The body's own limit is lower and decides."""
_LARGE_TEXT = Text(0, _MAX_TEXT_BYTES)
_RESERVED_KWARGS = (
    "messages", "tools", "documents", "chat_template", "add_generation_prompt", "continue_final_message"
)  # fmt: skip


class Function(msgspec.Struct):
    name: Annotated[str | None, Text(1, 256)] = None
    arguments: Annotated[str | dict[str, Any] | None, _LARGE_TEXT, OBJECT] = None


class ToolCall(msgspec.Struct):
    id: Annotated[str | None, Text(0, 256)] = None
    type: Annotated[str | None, Text(0, 64)] = None
    function: Function | None = None


class Part(msgspec.Struct):
    type: Annotated[str, Text(1, 64)]
    text: Annotated[str | None, _LARGE_TEXT] = None
    refusal: Annotated[str | None, _LARGE_TEXT] = None


class Message(msgspec.Struct):
    """What is checked of a message; the rest goes to the template unseen."""

    role: Annotated[str, Choice(_ROLES)]
    content: Annotated[str | list[Part] | None, _LARGE_TEXT, Items(0, _MAX_PARTS)] = None
    tool_calls: Annotated[list[ToolCall] | None, Items(0, setting="max_tools")] = None
    name: Annotated[str | None, Text(0, 256)] = None
    tool_call_id: Annotated[str | None, Text(0, 256)] = None


EFFORT = Choice(("none", "minimal", "low", "medium", "high", "xhigh", "max"))
Messages = Annotated[list[Message], MESSAGES]
Documents = Annotated[list[dict[str, Any]], Items(0, of=OBJECT, setting="max_messages")]


class ChatRequest(GenerationRequest, kw_only=True):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[msgspec.Raw, Json(_MAX_TEXT_BYTES, Messages, is_required=True)] = ABSENT
    max_tokens: Annotated[int | None, Number(1, MAX_ID)] = None
    max_completion_tokens: Annotated[int | None, Number(1, MAX_ID)] = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int | None, LOGPROBS] = None
    tools: Annotated[msgspec.Raw, Json(4 << 20, Tools)] = ABSENT
    tool_choice: Annotated[msgspec.Raw, Json(64 << 10)] = ABSENT
    parallel_tool_calls: bool | None = None
    reasoning_effort: Annotated[str | None, EFFORT] = None
    include_reasoning: bool | None = None
    chat_template_kwargs: Annotated[dict[str, Any] | None, Items(0, 64, keys=Text(1, 64))] = None
    chat_template: Annotated[str | None, Text(0, 64 << 10)] = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    documents: Annotated[msgspec.Raw, Json(_MAX_TEXT_BYTES, Documents)] = ABSENT

    verbosity: Annotated[str | None, Text(0, 64)] = None
    prediction: Annotated[dict[str, Any] | None, PLAIN] = None
    moderation: Annotated[dict[str, Any] | None, PLAIN] = None
    web_search_options: Annotated[dict[str, Any] | None, PLAIN] = None
    functions: Annotated[msgspec.Raw, refused("use tools")] = ABSENT
    function_call: Annotated[msgspec.Raw, refused("use tools and tool_choice", '"none"', '"auto"')] = ABSENT
    audio: Annotated[msgspec.Raw, refused("the served model writes text")] = ABSENT
    modalities: Annotated[list[str] | None, Items(0, 8, Text(0, 64))] = None


_decoder = msgspec.json.Decoder(ChatRequest)


def parse_chat(body: bytes) -> tuple[ChatRequest, ChatPrompt, ToolUse]:
    """The checked request, the prompt it makes, and its tools. Raises ApiError."""
    request = decode(body, _decoder)
    check_shared(request)
    _check_fields(request)
    messages = json_of(request.messages)
    if not messages:
        raise ApiError(MISSING_PARAMETER, "messages is required.", "messages")
    _check_messages(decode_part(messages, Messages, "messages"))
    tools, use = _tools_of(request)
    prompt = ChatPrompt(
        messages_json=messages,
        tools_json=tools,
        template_kwargs_json=_kwargs_of(request),
        documents_json=_documents_of(request),
        add_generation_prompt=request.add_generation_prompt is not False and not request.continue_final_message,
        continue_final_message=bool(request.continue_final_message),
        add_special_tokens=bool(request.add_special_tokens),
        chat_template=request.chat_template or "",
    )
    return request, prompt, use


def _check_fields(request: ChatRequest) -> None:
    if request.top_logprobs and not request.logprobs:
        raise ApiError(INVALID_VALUE, "top_logprobs needs logprobs: true.", "top_logprobs")
    if request.add_generation_prompt and request.continue_final_message:
        message = "continue_final_message and add_generation_prompt cannot both be true."
        raise ApiError(INVALID_VALUE, message, "continue_final_message")
    if request.modalities is not None and any(modality != "text" for modality in request.modalities):
        raise unsupported("modalities", "other than text")


def echoed_text(request: ChatRequest) -> str:
    """What `echo` puts before each answer: the last message, where the answer goes on in its role."""
    if not request.echo:
        return ""
    message = decode_part(json_of(request.messages), Messages, "messages")[-1]
    if message.role != "assistant" and not request.continue_final_message:
        return ""
    content = message.content or ""
    return content if isinstance(content, str) else "".join(part.text or part.refusal or "" for part in content)


def _check_messages(messages: list[Message]) -> None:
    for index, message in enumerate(messages):
        path = f"messages[{index}]"
        if isinstance(message.content, list):
            _check_parts(message.content, path)
        elif message.content is None and message.role != "assistant":
            where = f"{path}.content"
            raise ApiError(MISSING_PARAMETER, f"{where} is required for the role {message.role}.", where)
        if message.tool_calls:
            _check_tool_calls(message.tool_calls, path)


def _check_parts(parts: list[Part], path: str) -> None:
    for index, part in enumerate(parts):
        where = f"{path}.content[{index}]"
        if part.type not in ("text", "refusal"):
            message = f"{where} has the type {echo(part.type)}; the served model takes text only."
            raise ApiError(UNSUPPORTED_VALUE, message, f"{where}.type")
        if (part.text if part.type == "text" else part.refusal) is None:
            raise ApiError(MISSING_PARAMETER, f"{where}.{part.type} is required.", f"{where}.{part.type}")


def _check_tool_calls(calls: list[ToolCall], path: str) -> None:
    for index, call in enumerate(calls):
        if call.function is None or not call.function.name:
            where = f"{path}.tool_calls[{index}].function.name"
            raise ApiError(MISSING_PARAMETER, f"{where} is required.", where)


def _tools_of(request: ChatRequest) -> tuple[bytes, ToolUse]:
    """The tools for the template, none when the client chose none; and what may be called."""
    tools = json_of(request.tools)
    use = tool_use(tools, json_of(request.tool_choice), request.parallel_tool_calls is not False)
    return b"" if use.choice == "none" else tools, use


def _kwargs_of(request: ChatRequest) -> bytes:
    kwargs = dict(request.chat_template_kwargs or {})
    for name in _RESERVED_KWARGS:
        if name in kwargs:
            where = f"chat_template_kwargs.{name}"
            raise ApiError(INVALID_VALUE, f"{where} cannot be set: it is not the template's to vary.", where)
    if request.reasoning_effort == "none":
        kwargs.setdefault("enable_thinking", False)
    elif request.reasoning_effort is not None:
        kwargs.setdefault("reasoning_effort", request.reasoning_effort)
    return msgspec.json.encode(kwargs) if kwargs else b""


def _documents_of(request: ChatRequest) -> bytes:
    documents = json_of(request.documents)
    if documents:
        decode_part(documents, Documents, "documents")
    return documents
