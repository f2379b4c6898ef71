"""What an answer is made of, as events: reasoning, text, and tool calls piece by piece.

Made by the OutputParser; every way of writing an answer is a fold of them.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Reasoning(msgspec.Struct, gc=False):
    text: str


class Text(msgspec.Struct, gc=False):
    text: str


class ToolStart(msgspec.Struct, gc=False):
    index: int
    """Of the call among those of its choice."""
    id: str
    name: str


class ToolArgs(msgspec.Struct, gc=False):
    """A piece of the call's arguments; all of them together are JSON."""

    index: int
    text: str


class ToolEnd(msgspec.Struct, gc=False):
    index: int


class End(msgspec.Struct, gc=False):
    reason: str
    """stop | length | tool_calls."""


Event: TypeAlias = Reasoning | Text | ToolStart | ToolArgs | ToolEnd | End
