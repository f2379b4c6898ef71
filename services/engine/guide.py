"""A guide: how far one choice has come in its grammar, and which tokens may follow.

A pure function of the choice's output ids, so that a resumed or preempted choice goes on where it was.
Advanced by commit.py, asked by masks.py. Knows no scheduler and no text but the marker it may wait for.
"""

from __future__ import annotations

from collections.abc import Callable

from llguidance import LLMatcher

_TOO_COMPLEX = ("ParserTooComplex", "LexerTooComplex")


class Guide:
    """`error` is a sentence once the choice cannot go on in its grammar; `is_complete`: nothing can follow."""

    __slots__ = ("_decode", "_field", "_marker", "_tail", "error", "is_active", "is_complete", "matcher")

    def __init__(self, matcher: LLMatcher, field: str, marker: bytes, decode: Callable[[int], bytes]) -> None:
        self.matcher = matcher
        self.is_active = not marker
        """Whether the grammar has begun: before its marker the choice is free."""
        self.is_complete = False
        self.error = ""
        self._field = field
        self._marker = marker
        self._tail = b""
        self._decode = decode

    def advance(self, token: int) -> None:
        """One more token of the choice."""
        if not self.is_active:
            self._look_for_marker(token)
        elif not self.is_complete and not self.error:
            self.matcher.consume_token(token)
            self.look()

    def look(self) -> None:
        """Note what has become of the matcher."""
        if not self.matcher.is_stopped():
            return
        if not self.matcher.is_error():
            self.is_complete = True
        elif self.matcher.stop_reason() in _TOO_COMPLEX:
            self.error = f"{self._field} became too complex to follow at this point of the answer"
        else:
            self.error = f"the answer could not go on as {self._field} demands"

    def fail(self, cause: str) -> None:
        self.error = f"the answer could not go on as {self._field} demands: {cause}"

    def _look_for_marker(self, token: int) -> None:
        """What stands behind the marker in the same token is white space at most, and free."""
        text = self._tail + self._decode(token)
        if self._marker in text:
            self.is_active = True
            self._tail = b""
        else:
            self._tail = text[-len(self._marker) :]
