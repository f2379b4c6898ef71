"""Reads JSON as a model writes it, piece by piece: arguments, and call objects with a name and arguments.

What the OutputParser's states `arguments` and `calls` do. Nothing is read twice, strings are jumped
over, and a marker counts only outside of strings. Knows no format.
"""

from __future__ import annotations

import msgspec

from .call_writer import CallWriter
from .output_machine import Markers

DONE, FAILED = "done", "failed"
_STRING_END = Markers(('"', "\\"))
_NAMES = ("name",)
_ARGUMENTS = ("arguments", "parameters")
_KEYS = (*_NAMES, *_ARGUMENTS, "id", "type", "function")
_MAX_KEY = 64
"""Characters of a key of a call object, with its quote."""


class JsonValue:
    """One JSON value, handed on as it is written. `outcome`: "" while it goes on, DONE, or the marker that ended it."""

    __slots__ = ("_calls", "_depth", "_has_begun", "_is_in_string", "_markers", "num_steps", "outcome")

    def __init__(self, calls: CallWriter, markers: Markers) -> None:
        self._calls = calls
        self._markers = markers
        self._has_begun = False
        self._depth = 0
        self._is_in_string = False
        self.num_steps = 0
        self.outcome = ""

    def feed(self, text: str, position: int) -> int:
        """Read on; where it stopped. What it left is to be given again, with more behind it."""
        sent = position
        while not self.outcome:
            self.num_steps += 1
            if self._is_in_string:
                position, self._is_in_string, is_held = skip_string(text, position)
                if is_held or position == len(text):
                    break
                if not self._depth:
                    self.outcome = DONE
                continue
            match = self._markers.search(text, position)
            if match is None:
                position = self._markers.held(text, position)
                break
            found = match[0]
            if len(found) > 1 or found not in '"{}[]:,':
                self.outcome = found
                position = match.start()
                break
            position = match.end()
            if found == '"':
                self._is_in_string = True
            elif found in "{[":
                self._depth += 1
            elif found in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    self.outcome = DONE
        self._send(text[sent:position])
        if self.outcome in ("", DONE):
            return position
        self.finish("", is_complete=True)
        return position + len(self.outcome)

    def finish(self, held: str, is_complete: bool) -> None:
        """At the end of the text, or at a marker: what was held back; no arguments at all are an empty object."""
        self._send(held)
        if is_complete and not self._has_begun:
            self._send("{}")

    def _send(self, text: str) -> None:
        if not self._has_begun:
            text = text.lstrip()
            self._has_begun = bool(text)
        self._calls.arguments(text)


def skip_string(text: str, position: int, ends: Markers = _STRING_END) -> tuple[int, bool, bool]:
    """Read on within a string: (where, whether still within it, whether an escape's second half is awaited)."""
    while (match := ends.search(text, position)) is not None:
        if match[0] != "\\":
            return match.end(), False, False
        if match.end() == len(text):
            return match.start(), True, True
        position = match.end() + 1
    return len(text), True, False


class JsonCalls:
    """Call objects, alone or in a list. `outcome`: also FAILED, when what comes is no call object."""

    __slots__ = (
        "_arguments", "_calls", "_depth", "_is_in_string", "_is_list", "_is_streaming", "_key", "_markers", "_name",
        "_own_id", "_phase", "_room", "_word", "has_started", "num_steps", "outcome",
    )  # fmt: skip

    def __init__(self, calls: CallWriter, markers: Markers) -> None:
        self._calls = calls
        self._markers = markers
        self._is_list = False
        self._is_in_string = False
        self._room = _MAX_KEY
        """Characters that the key under way may still have."""
        self._phase = "open"
        """open (of an object) | key | colon | value | after (an object of a list)."""
        self._begin()
        self._depth = 0
        self.num_steps = 0
        self.outcome = ""

    def _begin(self) -> None:
        """A new object."""
        self._depth = 1
        self._key = self._name = self._own_id = ""
        self._arguments: str | None = None
        self._word: list[str] = []
        self._is_streaming = False
        """The value under way are the arguments, and they go out as they come."""
        self.has_started = False

    def feed(self, text: str, position: int) -> int:
        """As JsonValue.feed."""
        while not self.outcome:
            self.num_steps += 1
            if self._is_in_string:
                end, is_within, is_held = skip_string(text, position)
                if self._phase == "key" and end - position > self._room:
                    self.outcome = FAILED
                    return position + self._room
                self._room -= end - position
                self._take(text[position:end])
                position = end
                if not is_within:
                    self._is_in_string = False
                    self._end_string()
                elif is_held or position == len(text):
                    break
                continue
            match = self._markers.search(text, position)
            stop = self._markers.held(text, position) if match is None else match.start()
            position = self._between(text, position, stop)
            if match is None or self.outcome:
                return position
            position = match.end()
            if len(match[0]) > 1 or match[0] not in '"{}[]:,':
                self.outcome = match[0] if self.has_started else FAILED
                if self.outcome == FAILED:
                    return match.start()
                self._calls.close()
            else:
                self._sign(match[0])
        return position

    def finish(self, held: str, is_complete: bool) -> None:
        """At the end of the text: what was held back of arguments that go out as they come."""
        if self._is_streaming:
            self._calls.arguments(held)

    def _take(self, text: str) -> None:
        if self._is_streaming:
            self._calls.arguments(text)
        elif text:
            self._word.append(text)

    def _between(self, text: str, start: int, stop: int) -> int:
        """What stands between two signs: part of a value, else only white space. Where it fails, or `stop`."""
        piece = text[start:stop]
        if self._phase == "value":
            if not (self._depth == 1 and self._arguments is not None and self._key in _ARGUMENTS):
                self._take(piece)
        elif piece and not piece.isspace():
            self.outcome = FAILED
            return stop - len(piece.lstrip())
        return stop

    def _sign(self, sign: str) -> None:
        if sign == '"':
            if self._phase in ("key", "value") and self._depth:
                if self._phase == "value":
                    self._take(sign)
                self._is_in_string = True
                self._room = _MAX_KEY
            else:
                self.outcome = FAILED
        elif sign in "{[":
            self._open(sign)
        elif sign in "}]":
            self._close(sign)
        elif self._depth > 1:
            self._take(sign)
        elif sign == ":" and self._phase == "colon":
            self._phase = "value"
        elif sign == "," and self._phase == "value":
            self._end_value()
            self._phase = "key"
        elif sign == "," and self._phase == "after":
            self._phase = "open"
        else:
            self.outcome = FAILED

    def _open(self, sign: str) -> None:
        if self._phase == "value":
            if sign == "{" and self._depth == 1 and self._name and self._key in _ARGUMENTS and not self.has_started:
                self._start()
                self._is_streaming = True
            self._take(sign)
            self._depth += 1
        elif self._phase == "open" and sign == "{":
            self._begin()
            self._phase = "key"
        elif self._phase == "open" and sign == "[" and not self._is_list:
            self._is_list = True
        else:
            self.outcome = FAILED

    def _close(self, sign: str) -> None:
        if self._depth > 1:
            self._take(sign)
            self._depth -= 1
            if self._depth == 1 and self._is_streaming:
                self._is_streaming, self._arguments = False, ""
        elif self._depth == 1 and sign == "}" and self._phase in ("key", "value"):
            self._end_value()
            self._end_object()
        elif not self._depth and sign == "]" and self._is_list:
            self.outcome = DONE
        else:
            self.outcome = FAILED

    def _end_string(self) -> None:
        if self._phase != "key":
            return
        self._key = "".join(self._word)[:-1]
        self._word = []
        self._phase = "colon"
        if self._key not in _KEYS and not self.has_started and not self._name and self._arguments is None:
            self.outcome = FAILED

    def _end_value(self) -> None:
        written = "".join(self._word).strip()
        self._word = []
        if self._key in _NAMES or (self._key == "function" and not self._name):
            self._name = self._name or _string(written) or ""
        elif self._key == "id":
            self._own_id = _string(written) or ""
        elif self._key in _ARGUMENTS and self._arguments is None:
            self._arguments = written
        self._key = ""

    def _end_object(self) -> None:
        if not self.has_started:
            self._start()
            if self.outcome:
                return
            self._calls.arguments(_plain_arguments(self._arguments or ""))
        self._calls.close()
        self._depth = 0
        self._phase = "after"
        if not self._is_list:
            self.outcome = DONE

    def _start(self) -> None:
        self.has_started = self._calls.start(self._name, self._own_id)
        if not self.has_started:
            self.outcome = FAILED


def _string(written: str) -> str | None:
    """The value of a JSON string; None for anything else."""
    try:
        return msgspec.json.decode(written, type=str)
    except (msgspec.DecodeError, UnicodeError):
        return None


def _plain_arguments(written: str) -> str:
    """Arguments that were written whole: none at all, or JSON in a string, become an object."""
    if written in ("", "null", '""'):
        return "{}"
    return (_string(written) or "{}") if written.startswith('"') else written
