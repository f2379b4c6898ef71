"""The input of a Responses request: its items, as the client sent them, and the messages that they are.

Items of any kind that a text model can carry, references to stored ones included. Knows nothing of templates.
"""

from __future__ import annotations

from typing import Any

import msgspec

from quire.shared.errors import INVALID_VALUE, MISSING_PARAMETER, UNSUPPORTED_VALUE, ApiError, echo

from .protocol import decode_part, json_of
from .responses_protocol import Input, ResponseItem, ResponsePart, ResponsesRequest


def input_items(request: ResponsesRequest) -> list[dict[str, Any]]:
    """The input as items, checked. Raises ApiError."""
    raw = json_of(request.input)
    if raw[:1] == b'"':
        text = {"type": "input_text", "text": decode_part(raw, str, "input")}
        return [{"type": "message", "role": "user", "content": [text]}]
    decode_part(raw, Input, "input")
    items = decode_part(raw, list[dict[str, Any]], "input")
    return [{**item, "type": _type_of(item)} for item in items]


def _type_of(item: dict[str, Any]) -> str:
    """Which a message, and a reference, may leave out."""
    if item.get("type"):
        return item["type"]
    return "item_reference" if item.get("id") and item.get("role") is None else "message"


def referred_to(items: list[dict[str, Any]]) -> set[str]:
    """Ids of stored items that the input refers to."""
    return {str(item.get("id")) for item in items if item["type"] == "item_reference"}


def resolved(item: dict[str, Any], index: int, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The item that a reference means, or this one itself. Raises ApiError."""
    if item["type"] != "item_reference":
        return item
    if (meant := found.get(str(item.get("id")))) is None:
        message = f"input[{index}] refers to {echo(item.get('id'))}, which is no item of a stored response."
        raise ApiError(INVALID_VALUE, message, f"input[{index}].id")
    return meant


def messages_of(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages that items are. Raises ApiError."""
    messages: list[dict[str, Any]] = []
    for index, item in enumerate(items):
        _add(messages, msgspec.convert(item, ResponseItem), f"input[{index}]")
    return messages


def _add(messages: list[dict[str, Any]], item: ResponseItem, where: str) -> None:
    """One more item. Reasoning and calls belong to the assistant's message that is being told."""
    if item.type == "message":
        if item.role is None:
            raise ApiError(MISSING_PARAMETER, f"{where}.role is required.", f"{where}.role")
        text = _text(item.content, f"{where}.content")
        last = _assistant(messages) if item.role == "assistant" else None
        if last is not None and not last["content"] and "tool_calls" not in last:
            last["content"] = text
        else:
            messages.append({"role": item.role, "content": text})
    elif item.type == "function_call":
        if not item.name or not item.call_id:
            raise ApiError(MISSING_PARAMETER, f"{where} needs a name and a call_id.", where)
        function = {"name": item.name, "arguments": item.arguments or "{}"}
        call = {"id": item.call_id, "type": "function", "function": function}
        _assistant_or_new(messages).setdefault("tool_calls", []).append(call)
    elif item.type == "function_call_output":
        if not item.call_id:
            raise ApiError(MISSING_PARAMETER, f"{where}.call_id is required.", f"{where}.call_id")
        output = _text(item.output, f"{where}.output")
        messages.append({"role": "tool", "tool_call_id": item.call_id, "content": output})
    elif item.type == "reasoning":
        thought = _text(item.content, f"{where}.content") or _text(item.summary, f"{where}.summary")
        if thought:
            messages.append({"role": "assistant", "content": "", "reasoning_content": thought})
    else:
        message = f"{where} has the type {echo(item.type)}, which is not supported by this server."
        raise ApiError(UNSUPPORTED_VALUE, message, f"{where}.type")


def _assistant(messages: list[dict[str, Any]]) -> dict[str, Any] | None:
    return messages[-1] if messages and messages[-1]["role"] == "assistant" else None


def _assistant_or_new(messages: list[dict[str, Any]]) -> dict[str, Any]:
    last = _assistant(messages)
    if last is None:
        last = {"role": "assistant", "content": ""}
        messages.append(last)
    return last


def _text(content: str | list[ResponsePart] | None, where: str) -> str:
    if not isinstance(content, list):
        return content or ""
    texts: list[str] = []
    for index, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text
        if part.type not in ("input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text"):
            message = f"{where}[{index}] has the type {echo(part.type)}; the served model takes text only."
            raise ApiError(UNSUPPORTED_VALUE, message, f"{where}[{index}].type")
        if text is None:
            raise ApiError(MISSING_PARAMETER, f"{where}[{index}].text is required.", f"{where}[{index}].text")
        texts.append(text)
    return "\n".join(texts)
