"""The parser of a choice's text: one state machine for every model family, its states from a table.

Between the deltas and every way of writing an answer. Each way of cutting the text makes the same
events; what may still become a marker is held back, nothing is read twice.
Knows no request and no protocol.
"""

from __future__ import annotations

import itertools
import re
from typing import Any

from .call_writer import CallWriter
from .json_calls import DONE, FAILED, JsonCalls, JsonValue
from .output_events import End, Event, Reasoning, Text, ToolArgs, ToolEnd, ToolStart
from .output_machine import Machine, Stage
from .pythonic_calls import PythonicCalls
from .value_strings import ValueStrings

_MAX_WORD = 256
"""Characters of a name, of a parameter's name, of a harmony header."""
_HARMONY_CALL = re.compile(r"to=functions\.(?P<name>[^\s<]+)")
_READERS = {"arguments": JsonValue, "calls": JsonCalls, "pythonic": PythonicCalls}
_SPACE = re.compile(r"\s*")
_BODY = "body"
"""Where a harmony header leads: its words say to what."""

Reader = JsonValue | JsonCalls | PythonicCalls


def _kind(event: Event) -> tuple[type, int]:
    """What events have in common that can be one. The start and the end of a call stand alone."""
    return type(event), event.index if isinstance(event, (ToolArgs, ToolStart, ToolEnd)) else 0


def _joined(events: list[Event]) -> Event:
    first = events[0]
    if len(events) > 1 and isinstance(first, (Reasoning, Text, ToolArgs)):
        first.text = "".join([event.text for event in events if isinstance(event, (Reasoning, Text, ToolArgs))])
    return first


class OutputParser:
    """Of one choice. `schemas`: of the parameters of the tools that were offered, by name."""

    __slots__ = (
        "_calls", "_events", "_has_reasoning", "_has_tools", "_held", "_machine", "_parameter", "_raw", "_reader",
        "_room", "_spaces", "_stage", "_strings", "_word", "num_steps",
    )  # fmt: skip

    def __init__(self, machine: Machine, starts_in_reasoning: bool, schemas: dict[str, dict[str, Any]]) -> None:
        self._machine = machine
        self._events: list[Event] = []
        self._calls = CallWriter(self._events, machine.ids, schemas)
        self._has_tools = bool(schemas)
        self._stage = machine.stages["reasoning" if starts_in_reasoning else "start"]
        self._held = ""
        """The end of the text so far that may become a marker."""
        self._spaces: list[str] = []
        """White space that belongs to the answer only if more of the same follows."""
        self._raw: list[str] | None = None
        """What was read since a call seemed to begin: text, if none does."""
        self._has_reasoning = False
        self._reader: Reader | None = None
        """What reads, in a state whose sink has one."""
        self._word: list[str] = []
        self._room = _MAX_WORD
        """Characters that the word may still have."""
        self._parameter = ""
        self._strings: ValueStrings | None = None
        """Of the value under way."""
        self.num_steps = 0
        """Characters looked at and turns of the loops, which grow with the text's length and no faster."""

    @property
    def is_in_reasoning(self) -> bool:
        return self._stage.sink == "reasoning"

    def feed(self, text: str) -> list[Event]:
        """The events that this piece of text completes."""
        stage = self._stage
        if (
            stage.sink == "text" and text and not self._held and not self._spaces
            and stage.markers.first_chars.isdisjoint(text) and not text[-1].isspace()
        ):  # fmt: skip
            self.num_steps += len(text)
            return [Text(text)]
        text, position = self._held + text, 0
        while position < len(text):
            start, num_calls = position, self._calls.num_calls
            position, following, marker = self._step(self._stage, text, start)
            self.num_steps += position - start + 1
            if self._calls.num_calls > num_calls:
                self._raw = None
            elif self._raw is not None:
                self._raw.append(text[start:position])
            if not following:
                break
            self._enter(following, marker)
        self._held = text[position:]
        self.num_steps += len(self._held)
        return self._take_events()

    def finish(self, reason: str) -> list[Event]:
        """The events of the end, with what was held back. `reason`: stop | length."""
        held, self._held = self._held, ""
        is_complete, sink = reason == "stop", self._stage.sink
        if sink == "reasoning":
            self._emit_reasoning(held)
        elif self._raw is not None:
            if sink != "header" or not self._raw[0].strip():
                self._emit_text("".join(self._raw) + held)
        elif sink in ("text", "lead"):
            self._emit_text(held)
        elif self._reader is not None:
            self._reader.finish(held, is_complete)
        elif sink == "value" and is_complete:
            self._word.append(held)
            self._end_parameter()
        if self._spaces and sink != "reasoning":
            self._events.append(Text("".join(self._spaces)))
        self._calls.close(is_complete)
        self._events.append(End("tool_calls" if is_complete and self._calls.num_calls else reason))
        return self._take_events()

    def _take_events(self) -> list[Event]:
        if len(self._events) < 2:
            events = self._events[:]
        else:
            events = [_joined(list(group)) for _, group in itertools.groupby(self._events, _kind)]
        self._events.clear()
        return events

    # --- one step

    def _step(self, stage: Stage, text: str, start: int) -> tuple[int, str, str]:
        """Read on in this state: where it stopped; FAILED, the state that follows, or "": it wants more; the marker."""
        if stage.sink == "lead":
            return self._lead(stage, text, start)
        if self._reader is not None:
            return self._read_on(stage, self._reader, text, start)
        match, stop = self._marker(stage, text, start)
        if stage.is_word:
            if stop - start > self._room:
                return start + self._room, FAILED, ""
            self._room -= stop - start
        self._take(stage, text[start:stop])
        if match is None:
            return stop, "", ""
        following = stage.next[match[0]]
        if following.startswith("+"):
            return stop, self._leave(stage, following[1:]), ""
        return match.end(), self._leave(stage, following), match[0]

    def _marker(self, stage: Stage, text: str, start: int) -> tuple[re.Match[str] | None, int]:
        """The next marker, and where what comes before it ends, or what can be no marker."""
        read = start
        while True:
            match = stage.markers.search(text, read)
            stop = stage.markers.held(text, read) if match is None else match.start()
            if self._strings is None or not self._strings.read(text[read:stop]) or match is None:
                return match, stop
            read = match.end()

    def _lead(self, stage: Stage, text: str, start: int) -> tuple[int, str, str]:
        match = _SPACE.match(text, start)
        first = match.end() if match is not None else start
        if first > start and not stage.drops_space:
            self._spaces.append(text[start:first])
        if first == len(text) or stage.markers.is_beginning(text, first):
            return first, "", ""
        match = stage.markers.match(text, first)
        if match is not None:
            return match.end(), stage.next[match[0]], match[0]
        return first, stage.leads.get(text[first]) or stage.leads.get("") or "text", ""

    def _read_on(self, stage: Stage, reader: Reader, text: str, start: int) -> tuple[int, str, str]:
        before = reader.num_steps
        position = reader.feed(text, start)
        self.num_steps += reader.num_steps - before
        if reader.outcome == FAILED:
            return position, FAILED if self._raw is not None and not self._calls.is_open else stage.then, ""
        if not reader.outcome:
            return position, "", ""
        return position, stage.then if reader.outcome == DONE else stage.next[reader.outcome], reader.outcome

    def _take(self, stage: Stage, piece: str) -> None:
        if stage.sink == "text":
            self._emit_text(piece)
        elif stage.sink == "reasoning":
            self._emit_reasoning(piece)
        elif stage.sink != "nothing" and piece:
            self._word.append(piece)

    def _leave(self, stage: Stage, following: str) -> str:
        """What the word of the state meant; the state that really follows."""
        if stage.sink == "header":
            self._word.append(" ")
            return self._channel() if following == _BODY else following
        if stage.sink == "value":
            self._end_parameter()
            return following
        word, self._word, self._room = "".join(self._word), [], _MAX_WORD
        if stage.sink == "name" and not self._calls.start(word):
            return FAILED
        if stage.sink == "key":
            self._parameter = word
        return following

    def _channel(self) -> str:
        """The state of what follows a harmony header."""
        header, self._word, self._room, self._raw = "".join(self._word), [], _MAX_WORD, None
        call = _HARMONY_CALL.search(header)
        if call is not None and self._has_tools and self._calls.start(call["name"]):
            return "arguments"
        return "reasoning" if "analysis" in header else "text"

    def _end_parameter(self) -> None:
        value, self._word = "".join(self._word), []
        self._calls.parameter(self._parameter, value.removeprefix("\n").removesuffix("\n"))

    # --- from state to state

    def _enter(self, name: str, marker: str) -> None:
        before, stage = self._stage, self._machine.stages.get(name)
        if stage is None or (stage.is_outside and self._raw is not None):
            self._fall_back()
            return
        if stage.is_between:
            self._calls.close()
        if before.is_outside and not stage.is_outside:
            self._raw = ["".join(self._spaces) + marker]
            self._spaces = []
        elif stage.sink != before.sink and not (before.sink == "lead" and stage.sink == "text"):
            self._spaces = []
        self._stage = stage
        self._strings = ValueStrings(self._calls.schema_of(self._parameter)) if stage.sink == "value" else None
        reader = _READERS.get(stage.sink)
        self._reader = None if reader is None else reader(self._calls, stage.structure)

    def _fall_back(self) -> None:
        """What seemed to begin a call was none: it is text. After a call it is left out."""
        raw, self._raw, self._reader, self._word, self._room = self._raw, None, None, [], _MAX_WORD
        self._stage = self._machine.stages["answer" if raw is None else "text"]
        if raw is not None:
            self._emit_text("".join(raw))

    # --- what comes out

    def _emit_text(self, text: str) -> None:
        """White space at the end waits: before a call it is no part of the answer."""
        if not self._stage.markers.strings and not self._spaces:
            if text:
                self._events.append(Text(text))
            return
        shown = text.rstrip()
        if shown:
            self._events.append(Text("".join(self._spaces) + shown))
            self._spaces = []
        if len(shown) < len(text):
            self._spaces.append(text[len(shown) :])

    def _emit_reasoning(self, text: str) -> None:
        """Without the white space around it."""
        if not self._has_reasoning:
            text = text.lstrip()
        shown = text.rstrip()
        if shown:
            self._has_reasoning = True
            self._events.append(Reasoning("".join(self._spaces) + shown))
            self._spaces = []
        if self._has_reasoning and len(shown) < len(text):
            self._spaces.append(text[len(shown) :])
