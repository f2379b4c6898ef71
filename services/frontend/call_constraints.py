"""Calls that must be made, or that must follow their schema, as a constraint of the answer.

Written as a structural tag in the markers of the model's own format, so that the same parser reads it.
Knows no grammar.
"""

from __future__ import annotations

from typing import Any

import msgspec

from quire.shared.messages import Constraint
from quire.shared.output_formats import TOOL_FORMATS, ToolFormat

from .chat_tools import ToolFunction, ToolUse
from .protocol import unsupported

_FALLBACK = "hermes"
"""How forced calls are written where the model's own form is no JSON: the grammar has it write this."""


def written_format(tool_format: str, use: ToolUse) -> str:
    """The name of the format that the answer will be in."""
    if use.choice not in ("required", "named"):
        return tool_format
    return tool_format if tool_format in TOOL_FORMATS and TOOL_FORMATS[tool_format].call[0] else _FALLBACK


def call_constraint(tool_format: str, use: ToolUse) -> Constraint | None:
    """What the choice of tools asks of the answer; None: nothing. Raises ApiError."""
    if use.choice in ("required", "named"):
        tools = TOOL_FORMATS[written_format(tool_format, use)]
        allowed = [one for one in use.functions if use.choice == "required" or one.name == use.name]
        is_single = use.choice == "named" or not use.is_parallel or tools.separator is None
        return _constraint(
            {
                "type": "tags_with_separator",
                "tags": [_tag(tools, one, one.parameters) for one in allowed],
                "separator": tools.separator or "",
                "at_least_one": True,
                "stop_after_first": is_single,
            },
            "tool_choice",
        )
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


def _tag(tools: ToolFormat, function: ToolFunction, schema: dict[str, Any] | None) -> dict[str, Any]:
    before, between, after = tools.call
    schema = {"type": "object", **(schema or {})}
    content = {"type": "json_schema", "json_schema": schema}
    return {"type": "tag", "begin": before + function.name + between, "content": content, "end": after}


def _constraint(node: dict[str, Any], field: str) -> Constraint:
    return Constraint("structural_tag", msgspec.json.encode({"format": node}).decode(), field)
