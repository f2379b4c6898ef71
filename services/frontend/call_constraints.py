"""Calls that must be made, or that must follow their schema, as a constraint of the answer.

Written as a structural tag in the markers of the model's own format, so that the same parser reads it.
Knows no grammar.
"""

from __future__ import annotations

from typing import Any

import msgspec

from quire.shared.errors import INVALID_VALUE, ApiError
from quire.shared.messages import Constraint
from quire.shared.output_formats import TOOL_FORMATS, ToolFormat

from .chat_tools import ToolFunction, ToolUse
from .protocol import GenerationRequest, decode_part, unsupported
from .written_calls import Node, UnwritableError, call_node, calls_node, channels, free_node

_FALLBACK = "hermes"
"""How forced calls are written where the model's own form is not known, or cannot hold to a schema."""


def written_format(tool_format: str, use: ToolUse, has_json: bool = False) -> str:
    """The name of the format that the answer will be in; `has_json`: what is no call has to be JSON."""
    is_forced = use.choice in ("required", "named")
    if not is_forced and not (has_json and tool_format):
        return tool_format
    tools = TOOL_FORMATS.get(tool_format)
    if tools is None:
        return _FALLBACK
    try:
        for one in use.functions:
            if is_forced or one.strict:
                call_node(tools, one.name, one.parameters or {})
    except UnwritableError:
        return _FALLBACK
    return tool_format


def is_json_format(request: GenerationRequest) -> bool:
    return request.response_format is not None and request.response_format.type in ("json_object", "json_schema")


def answer_constraint(asked: Constraint | None, tool_format: str, use: ToolUse) -> Constraint | None:
    """What calls and the fields that say what an answer must be ask of it together. Raises ApiError.

    response_format is about text, as at OpenAI: a call that must be made leaves none, and one that may be made
    is the other thing that the answer can be.
    """
    is_json_text = asked is not None and asked.kind == "json" and asked.field == "response_format"
    if asked is not None and is_json_text and use.choice == "auto" and tool_format:
        return _json_or_calls(asked, written_format(tool_format, use, True), use)
    of_calls = call_constraint(tool_format, use)
    if asked is None or (of_calls is not None and is_json_text):
        return of_calls
    if of_calls is not None:
        message = f"{asked.field} and calls that are forced or strict cannot both be: an answer has one constraint."
        raise ApiError(INVALID_VALUE, message, of_calls.field)
    return asked


def _json_or_calls(asked: Constraint, tool_format: str, use: ToolUse) -> Constraint:
    tools = TOOL_FORMATS[tool_format]
    text: Node = {"type": "json_schema", "json_schema": decode_part(asked.body.encode(), Any, asked.field)}
    calls = [call_node(tools, one.name, one.parameters or {} if one.strict else None) for one in use.functions]
    if tools.section is None:
        node = channels([*calls, {"type": "tag", "begin": "<|channel|>final<|message|>", "content": text, "end": ""}])
    else:
        node = {"type": "or", "elements": [text, calls_node(tools, calls, not use.is_parallel)]}
    made = _constraint(node, asked.field)
    return msgspec.structs.replace(made, is_whitespace_flexible=asked.is_whitespace_flexible)


def call_constraint(tool_format: str, use: ToolUse) -> Constraint | None:
    """What the choice of tools asks of the answer; None: nothing. Raises ApiError."""
    if use.choice in ("required", "named"):
        tools = TOOL_FORMATS[written_format(tool_format, use)]
        allowed = [one for one in use.functions if use.choice == "required" or one.name == use.name]
        calls = [call_node(tools, one.name, one.parameters or {}) for one in allowed]
        return _constraint(calls_node(tools, calls, use.choice == "named" or not use.is_parallel), "tool_choice")
    if use.choice != "auto" or not any(one.strict for one in use.functions):
        return None
    tools = TOOL_FORMATS.get(tool_format)
    if tools is None:
        raise unsupported("tools", "with strict: true, since this model's form of calls is not known")
    calls = [_strict_or_free(tools, one) for one in use.functions]
    return _constraint(free_node(tools, calls, not use.is_parallel), "tools")


def _strict_or_free(tools: ToolFormat, function: ToolFunction) -> Node:
    """Raises ApiError."""
    try:
        return call_node(tools, function.name, function.parameters or {} if function.strict else {})
    except UnwritableError as part:
        detail = f"with strict: true and {part} in the parameters of {function.name}, in this model's form of calls,"
        raise unsupported("tools", detail) from None


def _constraint(node: Node, field: str) -> Constraint:
    return Constraint("structural_tag", msgspec.json.encode({"format": node}).decode(), field)
