"""The progress bar of the offline API: prompts done, prompts and tokens a second. Nothing without a terminal."""

from __future__ import annotations

import time

from .offline_link import Job
from .terminal import Terminal


class Progress:
    """`is_wanted` None: on a terminal, for more than one prompt. `add` may be called from another thread."""

    def __init__(self, total: int, is_wanted: bool | None) -> None:
        self._terminal = Terminal()
        self._is_shown = total > 0 and ((total > 1 and self._terminal.is_tty) if is_wanted is None else is_wanted)
        self._total = total
        self._num_done = self._num_tokens = 0
        self._began = time.monotonic()

    def add(self, job: Job) -> None:
        """One prompt has ended."""
        self._num_done += 1
        self._num_tokens += sum(len(choice.token_ids) for choice in job.output.choices)

    def draw(self) -> None:
        if self._is_shown:
            self._terminal.status(self._line())

    def close(self) -> None:
        """Leaves the last state as a line."""
        if self._is_shown:
            self._terminal.status("")
            self._terminal.line(self._line())

    def _line(self) -> str:
        seconds = max(1e-9, time.monotonic() - self._began)
        return (
            f"{self._terminal.bar(self._num_done / self._total)}  {self._num_done} of {self._total},"
            f" {self._num_done / seconds:.1f} prompts/s, {self._num_tokens / seconds:,.0f} tokens/s"
        )
