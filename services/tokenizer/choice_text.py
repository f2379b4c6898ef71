"""The text of one choice while it grows: its detokenizer, and its stop strings if it has any.

Made when a request is prepared, advanced by every TokenBatch. A choice that was already under way
elsewhere begins by replaying its ids. Knows nothing of batches or links.
"""

from __future__ import annotations

from .detokenizer import Detokenizer
from .stop_strings import StopMatcher, StopStrings


class PlainText:
    """A choice without stop strings."""

    __slots__ = ("flush", "push")
    found: str | None = None

    def __init__(self, detokenizer: Detokenizer) -> None:
        self.push = detokenizer.push
        self.flush = detokenizer.flush


class StoppableText:
    """A choice with stop strings. No stop string counts that is complete within the first `min_tokens` tokens."""

    __slots__ = ("_detokenizer", "_matcher", "_num_unarmed", "found")

    def __init__(self, detokenizer: Detokenizer, stops: StopStrings, includes_stop: bool, min_tokens: int) -> None:
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stops, includes_stop)
        self._num_unarmed = min_tokens
        self.found: str | None = None
        """The stop string that ended the choice."""

    def push(self, token_id: int) -> str:
        """The text that may go out with this token; after a stop string is found, not to be called again."""
        delta = self._detokenizer.push(token_id)
        if self._num_unarmed:
            self._num_unarmed -= 1
            return self._matcher.feed(delta, is_armed=False)
        if delta:
            delta = self._matcher.feed(delta)
            self.found = self._matcher.found
        return delta

    def flush(self) -> str:
        """The rest, at the end of the choice."""
        text = self._matcher.feed(self._detokenizer.flush(), is_armed=not self._num_unarmed)
        self.found = self._matcher.found
        return text + self._matcher.flush()


ChoiceText = PlainText | StoppableText


def replay(choice: ChoiceText, token_ids: list[int], sent_chars: int) -> str:
    """Advance a fresh choice over the ids it has already produced; the text of them that was not sent yet."""
    parts = []
    for token_id in token_ids:
        parts.append(choice.push(token_id))
        if choice.found is not None:
            break
    return "".join(parts)[sent_chars:]
