"""Whether a place of a bare value lies within a string of its JSON, where a marker is no marker. Read piece by piece.

For the OutputParser's state `value`. A value that is text, or no JSON after all, has no such places.
"""

from __future__ import annotations

import re
from typing import Any

from .tool_values import is_string

_ENDS = re.compile(r'["\\\n]')


class ValueStrings:
    """Of one value. `schema`: what is known of it."""

    __slots__ = ("_begins", "_is_escaped", "_is_json", "_is_within")

    def __init__(self, schema: Any) -> None:
        self._begins = "" if is_string(schema) else '{["' if schema else "{["
        """With one of these a value begins that is JSON."""
        self._is_json: bool | None = None
        """None until the first character that is no white space."""
        self._is_within = self._is_escaped = False

    def read(self, piece: str) -> bool:
        """Read on; whether the piece ends within a string."""
        if self._is_json is None and (first := piece.lstrip()[:1]):
            self._is_json = first in self._begins
        position = 0
        while self._is_json and position < len(piece):
            if self._is_escaped:
                self._is_escaped = False
                position += 1
            elif not self._is_within:
                start = piece.find('"', position)
                self._is_within = start >= 0
                position = start + 1 if start >= 0 else len(piece)
            else:
                position = self._end_of_string(piece, position)
        return bool(self._is_json) and self._is_within

    def _end_of_string(self, piece: str, position: int) -> int:
        match = _ENDS.search(piece, position)
        if match is None:
            return len(piece)
        self._is_escaped = match[0] == "\\"
        self._is_within = match[0] != '"'
        if match[0] == "\n":  # no string of JSON holds one
            self._is_json = False
        return match.end()
