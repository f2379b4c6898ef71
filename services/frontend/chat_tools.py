"""The tools of a chat request: which are offered, and what the client says of calling them.

Read off the checked request by chat_protocol.py; the answer's parser needs the schemas, the template
the JSON. Knows no format of calls.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from quire.shared.errors import INVALID_VALUE, MISSING_PARAMETER, ApiError, echo

from .bounds import Items, Text
from .protocol import decode_part, unsupported

_NAME = Text(1, 64, of="a-zA-Z0-9_.-")
OBJECT = Items(0, 1024, keys=Text(0, 256))
"""An object whose values only the template looks at; their depth and size are the body's."""


class ToolFunction(msgspec.Struct):
    name: Annotated[str, _NAME]
    description: Annotated[str | None, Text(0, 64 << 10)] = None
    parameters: Annotated[dict[str, Any] | None, OBJECT] = None
    strict: bool | None = None


class Tool(msgspec.Struct):
    type: Annotated[str, Text(1, 64)]
    function: ToolFunction | None = None


Tools = Annotated[list[Tool], Items(1, setting="max_tools")]


class _ChosenFunction(msgspec.Struct):
    name: Annotated[str, _NAME]


class ToolChoice(msgspec.Struct):
    """tool_choice as an object."""

    type: Annotated[str, Text(1, 64)]
    function: _ChosenFunction | None = None


class ToolUse(msgspec.Struct, frozen=True):
    """What may be called and what must be."""

    functions: list[ToolFunction] = []
    choice: str = "none"
    """none | auto | required | named."""
    name: str = ""
    """Of the function that must be called."""
    is_parallel: bool = True

    @property
    def schemas(self) -> dict[str, dict[str, Any]]:
        return {function.name: function.parameters or {} for function in self.functions}


def tool_use(tools: bytes, choice: bytes, is_parallel: bool) -> ToolUse:
    """`tools` and `choice` as the client's JSON, empty where absent. Raises ApiError."""
    kind, name = _choice(choice, bool(tools))
    if not tools:
        return ToolUse()
    functions = []
    for index, tool in enumerate(decode_part(tools, Tools, "tools")):
        if tool.type != "function":
            raise unsupported(f"tools[{index}].type", echo(tool.type))
        if tool.function is None:
            raise ApiError(MISSING_PARAMETER, f"tools[{index}].function is required.", f"tools[{index}].function")
        functions.append(tool.function)
    if name and all(function.name != name for function in functions):
        message = f"tool_choice names the function {echo(name)}, which is not in tools."
        raise ApiError(INVALID_VALUE, message, "tool_choice")
    return ToolUse(functions, kind, name, is_parallel)


def _choice(choice: bytes, has_tools: bool) -> tuple[str, str]:
    """(kind, name of the function)."""
    if not choice:
        return "auto" if has_tools else "none", ""
    if choice[:1] != b"{":
        word = decode_part(choice, str, "tool_choice")
        if word not in ("none", "auto", "required"):
            message = f"tool_choice must be none, auto, required or an object that names a function, got {echo(word)}."
            raise ApiError(INVALID_VALUE, message, "tool_choice")
        if word == "required" and not has_tools:
            raise ApiError(INVALID_VALUE, "tool_choice is only allowed together with tools.", "tool_choice")
        return word, ""
    chosen = decode_part(choice, ToolChoice, "tool_choice")
    if chosen.type != "function" or chosen.function is None:
        raise unsupported("tool_choice", f"of type {echo(chosen.type)}")
    if not has_tools:
        raise ApiError(INVALID_VALUE, "tool_choice is only allowed together with tools.", "tool_choice")
    return "named", chosen.function.name
