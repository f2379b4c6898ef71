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

_FALLBACK = "hermes"
"""How forced calls are written where the model's own form is no JSON: the grammar has it write this."""


def written_format(tool_format: str, use: ToolUse, has_json: bool = False) -> str:
    """The name of the format that the answer will be in; `has_json`: what is no call has to be JSON."""
    if use.choice not in ("required", "named") and not (has_json and tool_format):
        return tool_format
    return tool_format if tool_format in TOOL_FORMATS and TOOL_FORMATS[tool_format].call[0] else _FALLBACK


def is_json_format(request: GenerationRequest) -> bool:
    return request.response_format is not None and request.response_format.type in ("json_object", "json_schema")


def answer_constraint(asked: Constraint | None, tool_format: str, use: ToolUse) -> Constraint | None:
    """What calls and the fields that say what an answer must be ask of it together. Raises ApiError.

    response_format is about text, as at OpenAI: a call that must be made leaves none, and one that may be made
    is the other thing that the answer can be.
    """
    is_json_text = asked is not None and asked.kind == "json" and asked.field == "response_format"
    if asked is not None and is_json_text and use.choice == "auto" and tool_format:
        return _json_or_calls(asked, TOOL_FORMATS[written_format(tool_format, use, True)], use)
    of_calls = call_constraint(tool_format, use)
    if asked is None or (of_calls is not None and is_json_text):
        return of_calls
    if of_calls is not None:
        message = f"{asked.field} and calls that are forced or strict cannot both be: an answer has one constraint."
        raise ApiError(INVALID_VALUE, message, of_calls.field)
    return asked


def _json_or_calls(asked: Constraint, tools: ToolFormat, use: ToolUse) -> Constraint:
    schema = decode_part(asked.body.encode(), Any, asked.field)
    tags = [_tag(tools, one, one.parameters) if one.strict else _free_tag(tools, one) for one in use.functions]
    calls = _calls(tools, use, tags)
    node = {"type": "or", "elements": [{"type": "json_schema", "json_schema": schema}, calls]}
    made = _constraint(node, asked.field)
    return msgspec.structs.replace(made, is_whitespace_flexible=asked.is_whitespace_flexible)


def call_constraint(tool_format: str, use: ToolUse) -> Constraint | None:
    """What the choice of tools asks of the answer; None: nothing. Raises ApiError."""
    if use.choice in ("required", "named"):
        tools = TOOL_FORMATS[written_format(tool_format, use)]
        allowed = [one for one in use.functions if use.choice == "required" or one.name == use.name]
        return _constraint(_calls(tools, use, [_tag(tools, one, one.parameters) for one in allowed]), "tool_choice")
    if use.choice != "auto" or not any(one.strict for one in use.functions):
        return None
    tools = TOOL_FORMATS.get(tool_format)
    if tools is None or not tools.call[0]:
        raise unsupported("tools", "with strict: true in this model's form of calls")
    before = tools.call[0]
    return _constraint(
        {
            "type": "triggered_tags",
            "triggers": [next((marker for marker in tools.opens if before.startswith(marker)), before)],
            "tags": [_tag(tools, one, one.parameters if one.strict else None) for one in use.functions],
            "stop_after_first": not use.is_parallel,
        },
        "tools",
    )


def _calls(tools: ToolFormat, use: ToolUse, tags: list[dict[str, Any]]) -> dict[str, Any]:
    """Calls and nothing else."""
    return {
        "type": "tags_with_separator",
        "tags": tags,
        "separator": tools.separator or "",
        "at_least_one": True,
        "stop_after_first": use.choice == "named" or not use.is_parallel or tools.separator is None,
    }


def _free_tag(tools: ToolFormat, function: ToolFunction) -> dict[str, Any]:
    """A call whose arguments are as the model writes them."""
    return {**_tag(tools, function, None), "content": {"type": "any_text"}}


def _tag(tools: ToolFormat, function: ToolFunction, schema: dict[str, Any] | None) -> dict[str, Any]:
    before, between, after = tools.call
    schema = {"type": "object", **(schema or {})}
    content = {"type": "json_schema", "json_schema": schema}
    return {"type": "tag", "begin": before + function.name + between, "content": content, "end": after}


def _constraint(node: dict[str, Any], field: str) -> Constraint:
    return Constraint("structural_tag", msgspec.json.encode({"format": node}).decode(), field)
