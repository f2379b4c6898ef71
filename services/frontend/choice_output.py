"""What one choice's deltas mean as events, and what of them the client asked to see.

Between the deltas and the answers of every API that knows reasoning and tool calls: each is a fold of
these events, streamed or whole. Knows no protocol.
"""

from __future__ import annotations

from typing import Any

import msgspec

from quire.shared.messages import ReasoningIds

from .mailbox import Delta
from .output_events import End, Event, Reasoning, ToolArgs, ToolEnd, ToolStart
from .output_machine import machine
from .output_parser import OutputParser
from .reasoning_tokens import num_reasoning_tokens


class Parsing(msgspec.Struct, frozen=True):
    """How the answers to a request are parsed."""

    tool_format: str
    reasoning_format: str
    """Names in shared/output_formats.py."""
    reasoning_ids: ReasoningIds
    schemas: dict[str, dict[str, Any]]
    """Of the parameters of the offered tools, by name."""
    is_parallel: bool = True
    """Off: only the first call counts."""
    is_named: bool = False
    """The client chose the one function: it then ends with stop, not with tool_calls."""
    includes_reasoning: bool = True

    @property
    def markers(self) -> list[str]:
        return machine(self.tool_format, self.reasoning_format).markers


class ChoiceOutput:
    """The events of one choice."""

    __slots__ = ("_has_reasoned", "_parser", "_parsing", "_starts_inside", "reasoning_tokens")

    def __init__(self, parsing: Parsing, starts_in_reasoning: bool) -> None:
        self._parsing = parsing
        self._starts_inside = self._has_reasoned = starts_in_reasoning
        ready = machine(parsing.tool_format, parsing.reasoning_format)
        self._parser = OutputParser(ready, starts_in_reasoning, parsing.schemas)
        self.reasoning_tokens = 0
        """With the markers around it; known at the end."""

    def events(self, delta: Delta) -> list[Event]:
        """What this delta adds; with the choice's last delta an End comes last."""
        events = self._parser.feed(delta.text) if delta.text else []
        if delta.finish_reason is not None:
            events += self._parser.finish(delta.finish_reason)
        for event in events:
            if isinstance(event, Reasoning):
                self._has_reasoned = True
        if delta.finish_reason is not None and self._has_reasoned:
            self.reasoning_tokens = num_reasoning_tokens(delta.output_ids, self._parsing.reasoning_ids)
        return [event for event in map(self._shown, events) if event is not None]

    def _shown(self, event: Event) -> Event | None:
        parsing = self._parsing
        if isinstance(event, Reasoning):
            return event if parsing.includes_reasoning else None
        if isinstance(event, (ToolStart, ToolArgs, ToolEnd)):
            return event if parsing.is_parallel or not event.index else None
        if isinstance(event, End) and event.reason == "tool_calls" and parsing.is_named:
            return End("stop")
        return event
