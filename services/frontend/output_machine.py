"""The states of a format made ready for the parser: markers as patterns, formats joined into one machine.

Made once per pair of formats from the table in shared/output_formats.py. Knows no text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

import msgspec

from quire.shared.output_formats import REASONING_FORMATS, TOOL_FORMATS, ReasoningFormat, State, ToolFormat

STRUCTURE = ('"', "{", "}", "[", "]", ":", ",")
"""What matters of JSON outside of strings."""
PYTHON_STRUCTURE = ('"', "'", "(", ")", "{", "}", "[", "]", "=", ",")


class Markers:
    """Strings to look for, the longest first where several begin at one place."""

    __slots__ = ("_beginnings", "_longest", "first_chars", "match", "search", "strings")

    def __init__(self, strings: Iterable[str]) -> None:
        self.strings = sorted(strings, key=len, reverse=True)
        # Alternatives of fixed strings: each place is looked at once, and nothing is ever tried again.
        pattern = re.compile("|".join(map(re.escape, self.strings)) or r"(?!)")
        self.search, self.match = pattern.search, pattern.match
        self.first_chars = frozenset(string[0] for string in self.strings)
        self._beginnings = {string[:k] for string in self.strings for k in range(1, len(string))}
        self._longest = max(map(len, self.strings), default=1)

    def held(self, text: str, start: int) -> int:
        """Where the longest end of text[start:] begins that may become a marker; len(text) if none."""
        for position in range(max(start, len(text) - self._longest + 1), len(text)):
            if text[position] in self.first_chars and text[position:] in self._beginnings:
                return position
        return len(text)

    def is_beginning(self, text: str, start: int) -> bool:
        """Whether all of text[start:] may become a marker."""
        return len(text) - start < self._longest and text[start:] in self._beginnings


_OUTSIDE = ("start", "answer", "text", "reasoning", "end", "between")
_BETWEEN = ("start", "answer", "text", "end", "between", "section")


class Stage:
    """A state, ready."""

    __slots__ = (
        "drops_space", "is_between", "is_outside", "is_word", "leads", "markers", "next", "sink", "structure", "then",
    )  # fmt: skip

    def __init__(self, name: str, state: State) -> None:
        self.sink = state.sink
        self.next = state.exits
        self.leads = state.leads
        self.then = state.then
        self.drops_space = name != "start"
        """Of a lead: white space before what follows is no part of the answer."""
        self.is_outside = name in _OUTSIDE
        """Not on the way to a call: what comes from here is text, reasoning, or the beginning of a call."""
        self.is_between = name in _BETWEEN
        """No call is open here."""
        self.is_word = state.sink in ("name", "key", "header")
        self.markers = Markers(state.exits)
        signs = {"arguments": STRUCTURE, "calls": STRUCTURE, "pythonic": PYTHON_STRUCTURE}.get(state.sink, ())
        self.structure = Markers([*state.exits, *signs])


class Machine(msgspec.Struct, frozen=True):
    stages: Mapping[str, Stage]
    ids: str
    markers: list[str]
    """All of its markers; those that are special tokens must stay in the text."""


@functools.cache
def machine(tool_format: str, reasoning_format: str) -> Machine:
    """The machine of two formats, each a name in its table or "" for none."""
    tools = TOOL_FORMATS.get(tool_format, ToolFormat(()))
    reasoning = REASONING_FORMATS.get(reasoning_format, ReasoningFormat("", ""))
    states = _answer_states(tools)
    if reasoning.start:
        before = states["start"]
        states["start"] = State("lead", {reasoning.start: "reasoning", **before.exits}, before.leads)
    ends = {reasoning.end: "answer"} if reasoning.end else {}
    states["reasoning"] = State("reasoning", ends | (tools.opens if tools.is_unmistakable else {}))
    states |= tools.states
    markers = sorted({marker for state in states.values() for marker in state.exits})
    return Machine({name: Stage(name, state) for name, state in states.items()}, tools.ids, markers)


def _answer_states(tools: ToolFormat) -> dict[str, State]:
    """Of what surrounds calls: `start` keeps the white space before a text, `answer` goes on after something else."""
    opening = State("lead", tools.opens, {**tools.leads, "": "text"})
    return {"start": opening, "answer": opening, "text": State("text", tools.opens)}
