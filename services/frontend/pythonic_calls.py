"""Reads a Python-like list of calls, [f(a=1), g()], piece by piece.

What the OutputParser's state `pythonic` does. Each argument goes out as JSON once its literal is
complete. Knows no format.
"""

from __future__ import annotations

import re

from .call_writer import CallWriter
from .json_calls import DONE, FAILED, skip_string
from .output_machine import Markers
from .tool_values import json_of_literal

_NAME = re.compile(r"\s*[A-Za-z_][\w.-]{0,127}\s*")
_MAX_NAME = 256
_STRING_ENDS = {quote: Markers((quote, "\\")) for quote in "\"'"}
_CLOSING = {")": "(", "]": "[", "}": "{"}


class PythonicCalls:
    """`outcome`: "" while it goes on, DONE, FAILED when it is no list of calls, or the marker that ended it."""

    __slots__ = (
        "_calls", "_depth", "_key", "_markers", "_name", "_phase", "_quote", "_room", "_word",
        "num_steps", "outcome",
    )  # fmt: skip

    def __init__(self, calls: CallWriter, markers: Markers) -> None:
        self._calls = calls
        self._markers = markers
        self._phase = "open"
        """open | name | key | value | after (a call)."""
        self._name = self._key = self._quote = ""
        self._word: list[str] = []
        self._room = _MAX_NAME
        """Characters that the name under way may still have."""
        self._depth = 0
        """Brackets within a value."""
        self.num_steps = 0
        self.outcome = ""

    def feed(self, text: str, position: int) -> int:
        """As JsonValue.feed."""
        while not self.outcome:
            self.num_steps += 1
            if self._quote:
                end, is_within, _ = skip_string(text, position, _STRING_ENDS[self._quote])
                self._word.append(text[position:end])
                position = end
                if is_within:
                    break
                self._quote = ""
                continue
            match = self._markers.search(text, position)
            stop = self._markers.held(text, position) if match is None else match.start()
            position = self._take(text, position, stop)
            if match is None or self.outcome:
                return position
            position = match.end()
            if len(match[0]) > 1:
                self.outcome = match[0] if self._calls.is_open or self._phase == "after" else FAILED
                if self.outcome == FAILED:
                    return match.start()
                self._calls.close()
            elif not self._sign(match[0]):
                self.outcome = FAILED
        return position

    def finish(self, held: str, is_complete: bool) -> None:
        """An argument that was cut off is left out: what went out before is whole."""

    def _take(self, text: str, start: int, stop: int) -> int:
        """What stands between two signs. Where it fails, or `stop`."""
        piece = text[start:stop]
        if self._phase in ("open", "after"):
            if piece and not piece.isspace():
                self.outcome = FAILED
                return stop - len(piece.lstrip())
            return stop
        if self._phase != "value":
            if len(piece) > self._room:
                self.outcome = FAILED
                return start + self._room
            self._room -= len(piece)
        self._word.append(piece)
        return stop

    def _sign(self, sign: str) -> bool:
        """Whether this sign may stand here."""
        if self._phase == "value":
            return self._in_value(sign)
        written, self._word, self._room = "".join(self._word), [], _MAX_NAME
        if self._phase == "open" and sign == "[":
            self._phase = "name"
        elif self._phase == "after" and sign in ",]":
            self._phase = "name"
            if sign == "]":
                self.outcome = DONE
        elif self._phase == "name" and sign == "(" and _NAME.fullmatch(written):
            self._name, self._phase = written.strip(), "key"
        elif self._phase == "key" and sign == "=" and _NAME.fullmatch(written):
            self._key, self._phase = written.strip(), "value"
            return self._start()
        elif self._phase == "key" and sign == ")" and not written.strip():
            return self._start() and self._end_call()
        else:
            return False
        return True

    def _in_value(self, sign: str) -> bool:
        if sign in "\"'":
            self._quote = sign
        elif sign in _CLOSING.values():
            self._depth += 1
        elif sign in _CLOSING and self._depth:
            self._depth -= 1
        elif not self._depth and sign in ",)":
            self._calls.json_parameter(f'"{self._key}"', json_of_literal("".join(self._word)))
            self._word, self._phase, self._room = [], "key", _MAX_NAME
            return sign == "," or self._end_call()
        elif sign in _CLOSING:
            return False
        self._word.append(sign)
        return True

    def _start(self) -> bool:
        return self._calls.is_open or self._calls.start(self._name)

    def _end_call(self) -> bool:
        self._calls.close()
        self._phase = "after"
        return True
