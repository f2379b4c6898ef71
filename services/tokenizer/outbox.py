"""What one frontend is to be told after a step: columns of text, one row a choice.

Filled row by row while a TokenBatch is translated and sent as one TextBatch. Knows nothing of where
the rows come from.
"""

from __future__ import annotations

from quire.shared.messages import Finished, Started, TextBatch, TextLogprobs

from .token_ids import pack_ids


class Outbox:
    """The columns of the next TextBatch for `frontend`. The hot loop appends to them itself."""

    __slots__ = (
        "choices",
        "counts",
        "finished",
        "frontend",
        "logprobs",
        "prompt_logprobs",
        "request_ids",
        "started",
        "texts",
        "token_ids",
    )

    def __init__(self, frontend: str) -> None:
        self.frontend = frontend
        self._clear()

    def _clear(self) -> None:
        self.request_ids: list[int] = []
        self.choices: list[int] = []
        self.texts: list[str] = []
        self.counts: list[int] = []
        self.token_ids: list[int] = []
        self.started: list[Started] = []
        self.finished: list[Finished] = []
        self.logprobs: list[TextLogprobs] = []
        self.prompt_logprobs: list[TextLogprobs] = []

    def add_row(self, request_id: int, choice: int, text: str = "") -> int:
        """A row without tokens; its index."""
        self.request_ids.append(request_id)
        self.choices.append(choice)
        self.texts.append(text)
        self.counts.append(0)
        return len(self.counts) - 1

    def take(self) -> TextBatch | None:
        """The batch, and the columns are empty again; None when there is no row."""
        if not self.request_ids:
            return None
        batch = TextBatch(
            self.request_ids,
            self.choices,
            self.texts,
            self.counts,
            pack_ids(self.token_ids),
            self.started,
            self.finished,
            self.logprobs,
            self.prompt_logprobs,
        )
        self._clear()
        return batch
