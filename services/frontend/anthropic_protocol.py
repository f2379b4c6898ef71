"""An Anthropic Messages request: its fields, and the chat that they make.

Decodes the bodies of POST /v1/messages and /v1/messages/count_tokens, checks them, and writes them as
the messages and tools that chat templates know. Knows nothing of templates or of the answer.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from quire.shared.errors import INVALID_VALUE, MISSING_PARAMETER, UNSUPPORTED_VALUE, ApiError, echo
from quire.shared.messages import ChatPrompt

from .bounds import MAX_ID, Choice, Items, Json, Number, Text, check, out_of_bounds
from .chat_protocol import MESSAGES, ChatRequest
from .chat_tools import OBJECT, ToolFunction, ToolUse
from .parsed_request import ParsedRequest
from .protocol import ABSENT, STOP_STRINGS, decode, decode_part, json_of, refuse_unsupported

_MAX_BLOCKS = 2048
_LARGE_TEXT = Text(0, 64 << 20)
"""The body's own limit is lower and decides."""
_REFUSED = Json(64 << 10, is_refused=True)


class Block(msgspec.Struct):
    """A content block of any type; which fields it needs is its type's matter."""

    type: Annotated[str, Text(1, 64)]
    text: Annotated[str | None, _LARGE_TEXT] = None
    thinking: Annotated[str | None, _LARGE_TEXT] = None
    id: Annotated[str | None, Text(1, 256)] = None
    name: Annotated[str | None, Text(1, 256)] = None
    input: Annotated[dict[str, Any] | None, OBJECT] = None
    tool_use_id: Annotated[str | None, Text(1, 256)] = None
    content: Annotated[msgspec.Raw, Json(64 << 20)] = ABSENT
    is_error: bool | None = None


Blocks = Annotated[list[Block], Items(0, _MAX_BLOCKS)]
_Content = Annotated[str | list[Block], _LARGE_TEXT, Items(0, _MAX_BLOCKS)]


class AnthropicMessage(msgspec.Struct):
    role: Annotated[str, Choice(("user", "assistant", "system"))]
    content: _Content


class AnthropicTool(msgspec.Struct):
    name: Annotated[str, Text(1, 64, of="a-zA-Z0-9_.-")]
    type: Annotated[str | None, Text(1, 64)] = None
    description: Annotated[str | None, Text(0, 64 << 10)] = None
    input_schema: Annotated[dict[str, Any] | None, OBJECT] = None
    strict: bool | None = None


class AnthropicToolChoice(msgspec.Struct):
    type: Annotated[str, Choice(("auto", "any", "tool", "none"))]
    name: Annotated[str | None, Text(1, 64)] = None
    disable_parallel_tool_use: bool | None = None


class Thinking(msgspec.Struct):
    type: Annotated[str, Choice(("enabled", "disabled", "adaptive"))]
    budget_tokens: Annotated[int | None, Number(1, MAX_ID)] = None


class Metadata(msgspec.Struct):
    user_id: Annotated[str | None, Text(0, 512)] = None


class CountRequest(msgspec.Struct, kw_only=True):
    """The body of POST /v1/messages/count_tokens. null means the default, unknown fields are ignored."""

    model: Annotated[str | None, Text(0, 256)] = None
    messages: Annotated[list[AnthropicMessage], MESSAGES]
    system: Annotated[str | list[Block] | None, _LARGE_TEXT, Items(0, _MAX_BLOCKS)] = None
    tools: Annotated[list[AnthropicTool] | None, Items(0, setting="max_tools")] = None
    tool_choice: AnthropicToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest, kw_only=True):
    """The body of POST /v1/messages."""

    max_tokens: Annotated[int, Number(1, MAX_ID)]
    stop_sequences: Annotated[list[str] | None, STOP_STRINGS] = None
    stream: bool | None = None
    temperature: Annotated[float | None, Number(0, 1)] = None
    top_p: Annotated[float | None, Number(0, 1, is_open=True)] = None
    top_k: Annotated[int | None, Number(-1, MAX_ID)] = None
    metadata: Metadata | None = None
    service_tier: Annotated[str | None, Text(0, 64)] = None
    container: Annotated[msgspec.Raw, _REFUSED] = ABSENT
    mcp_servers: Annotated[msgspec.Raw, _REFUSED] = ABSENT


_messages_decoder = msgspec.json.Decoder(MessagesRequest)
_count_decoder = msgspec.json.Decoder(CountRequest)


def parse_messages(body: bytes) -> ParsedRequest:
    """Raises ApiError."""
    request = decode(body, _messages_decoder)
    check(request)
    refuse_unsupported(request)
    use = _tool_use(request)
    chat = ChatRequest(
        model=request.model,
        stream=request.stream,
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        max_tokens=request.max_tokens,
        stop=request.stop_sequences,
        include_reasoning=_thinks(request),
    )
    return ParsedRequest(chat, [_prompt(request, use)], use)


def parse_count(body: bytes) -> tuple[str | None, ChatPrompt]:
    """The model asked for and the prompt whose tokens are to be counted. Raises ApiError."""
    request = decode(body, _count_decoder)
    check(request)
    return request.model, _prompt(request, _tool_use(request))


def _thinks(request: CountRequest) -> bool:
    return request.thinking is not None and request.thinking.type != "disabled"


def _prompt(request: CountRequest, use: ToolUse) -> ChatPrompt:
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": _texts(request.system, "system")})
    for index, message in enumerate(request.messages):
        messages += _messages(message, f"messages[{index}]")
    tools = [{"type": "function", "function": _function(one)} for one in use.functions if use.choice != "none"]
    return ChatPrompt(
        messages_json=msgspec.json.encode(messages),
        tools_json=msgspec.json.encode(tools) if tools else b"",
        # Without `thinking` the API promises no thinking; templates of models that can choose know this name.
        template_kwargs_json=msgspec.json.encode({"enable_thinking": _thinks(request)}),
        add_generation_prompt=messages[-1]["role"] != "assistant",
        continue_final_message=messages[-1]["role"] == "assistant",
    )


def _function(function: ToolFunction) -> dict[str, Any]:
    return {"name": function.name, "description": function.description or "", "parameters": function.parameters or {}}


def _messages(message: AnthropicMessage, path: str) -> list[dict[str, Any]]:
    """The chat messages that one of Anthropic's makes: results of tools are messages of their own."""
    if isinstance(message.content, str):
        return [{"role": message.role, "content": message.content}]
    if message.role == "assistant":
        return [_assistant(message.content, path)]
    found: list[dict[str, Any]] = []
    texts: list[dict[str, Any]] = []
    for index, block in enumerate(message.content):
        where = f"{path}.content[{index}]"
        if block.type == "tool_result":
            result = _result(block, where)
            found.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": result})
        else:
            texts.append({"type": "text", "text": _text(block, where)})
    if texts or not found:
        found.append({"role": message.role, "content": texts})
    return found


def _assistant(blocks: list[Block], path: str) -> dict[str, Any]:
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for index, block in enumerate(blocks):
        where = f"{path}.content[{index}]"
        if block.type == "thinking":
            thoughts.append(block.thinking or "")
        elif block.type == "tool_use":
            if not block.name or not block.id:
                raise ApiError(MISSING_PARAMETER, f"{where} needs a name and an id.", where)
            function = {"name": block.name, "arguments": block.input or {}}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif block.type != "redacted_thinking":
            texts.append(_text(block, where))
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts)}
    if thoughts:
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


def _result(block: Block, where: str) -> str:
    if not block.tool_use_id:
        raise ApiError(MISSING_PARAMETER, f"{where}.tool_use_id is required.", f"{where}.tool_use_id")
    content = json_of(block.content)
    if not content:
        return ""
    if content[:1] == b'"':
        return decode_part(content, str, f"{where}.content")
    return _texts(decode_part(content, Blocks, f"{where}.content"), f"{where}.content")


def _texts(content: str | list[Block], path: str) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_text(block, f"{path}[{index}]") for index, block in enumerate(content))


def _text(block: Block, where: str) -> str:
    if block.type != "text":
        message = f"{where} has the type {echo(block.type)}; the served model takes text only."
        raise ApiError(UNSUPPORTED_VALUE, message, f"{where}.type")
    if block.text is None:
        raise ApiError(MISSING_PARAMETER, f"{where}.text is required.", f"{where}.text")
    return block.text


def _tool_use(request: CountRequest) -> ToolUse:
    chosen = request.tool_choice
    if not request.tools:
        if chosen is not None and chosen.type in ("any", "tool"):
            raise ApiError(INVALID_VALUE, "tool_choice is only allowed together with tools.", "tool_choice")
        return ToolUse()
    functions = []
    for index, tool in enumerate(request.tools):
        if tool.type not in (None, "custom"):
            message = f"tools[{index}] has the type {echo(tool.type)}; only tools of your own (custom) are supported."
            raise ApiError(UNSUPPORTED_VALUE, message, f"tools[{index}].type")
        functions.append(ToolFunction(tool.name, tool.description, tool.input_schema, tool.strict))
    if chosen is None:
        return ToolUse(functions, "auto")
    choice = {"any": "required", "tool": "named"}.get(chosen.type, chosen.type)
    if choice == "named" and chosen.name not in [function.name for function in functions]:
        raise out_of_bounds("tool_choice.name", f"must be one of the tools, got {echo(chosen.name)}")
    name = chosen.name or "" if choice == "named" else ""
    return ToolUse(functions, choice, name, not chosen.disable_parallel_tool_use)
