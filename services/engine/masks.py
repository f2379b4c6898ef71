"""The masks of a step: which tokens its rows may sample, as their grammars say.

Made when all tokens before the step are known, while the workers compute its logits. Costs some
microseconds a row; many rows are shared out to threads. Knows no scheduler.
"""

from __future__ import annotations

import ctypes
from array import array
from typing import TYPE_CHECKING

from quire.shared.messages import Masks

from .request import Choice, Status
from .step import Step

if TYPE_CHECKING:
    from llguidance import LLExecutor

_NOTHING_LEFT = "allowed_token_ids has no token that fits here"


class MaskBuilder:
    """Keeps one buffer and one pool of threads. `vocab_size` is the width of the logits."""

    def __init__(self, vocab_size: int) -> None:
        self._row_bytes = 4 * -(-vocab_size // 32)
        self._buffer = bytearray()
        self._executor: LLExecutor | None = None

    def build(self, number: int, step: Step) -> tuple[Masks, list[Choice]]:
        """The masks of a step, and the choices that cannot go on (their guides say why)."""
        rows = array("i")
        choices: list[Choice] = []
        index = -1
        for row in step.rows:
            if not row.samples:
                continue
            index += 1
            guide = row.choice.guide
            if guide is not None and guide.is_active and row.choice.status is not Status.FINISHED:
                rows.append(index)
                choices.append(row.choice)
        if not choices:
            return Masks(number, b"", b""), []
        self._fill(choices)
        failed = [place for place, choice in enumerate(choices) if not self._is_good(place, choice)]
        size = self._row_bytes
        if not failed:
            return Masks(number, rows.tobytes(), bytes(memoryview(self._buffer)[: size * len(rows)])), []
        good = [place for place in range(len(rows)) if place not in failed]
        bits = b"".join(self._buffer[place * size : (place + 1) * size] for place in good)
        return (
            Masks(number, array("i", [rows[place] for place in good]).tobytes(), bits),
            [choices[place] for place in failed],
        )

    def _fill(self, choices: list[Choice]) -> None:
        """Each choice's mask into its place of the buffer."""
        matchers = [choice.guide.matcher for choice in choices if choice.guide is not None]
        size = self._row_bytes
        if len(self._buffer) < size * len(matchers):
            self._buffer = bytearray(size * len(matchers))
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        if len(matchers) == 1:
            matchers[0].unsafe_compute_mask_ptr(address, size)
            return
        if self._executor is None:
            from llguidance import LLExecutor

            self._executor = LLExecutor()
        places = [(matcher, place) for place, matcher in enumerate(matchers)]
        self._executor.unsafe_compute_mask_ptr(places, address, size, len(places))

    def _is_good(self, place: int, choice: Choice) -> bool:
        """Whether the choice has a token to go on with; its guide is told when not."""
        guide, guides = choice.guide, choice.request.guides
        if guide is None or guides is None:
            return True
        if guide.matcher.is_error():
            guide.look()
            return False
        if guides.allowed >= 0:
            size = self._row_bytes
            if not int.from_bytes(self._buffer[place * size : (place + 1) * size], "little") & guides.allowed:
                guide.fail(_NOTHING_LEFT)
                return False
        return True
