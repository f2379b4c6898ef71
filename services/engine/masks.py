"""The masks of a step: which tokens its rows may sample, as their grammars and bad words say.

Made when all tokens before the step are known, while the workers compute its logits. Costs some
microseconds a row; many rows are shared out to threads. Knows no scheduler.
"""

from __future__ import annotations

import ctypes
from array import array
from typing import TYPE_CHECKING

from msgspec import Struct

from quire.shared.messages import Masks

from .guide import Guide
from .request import Choice, Status
from .step import Step

if TYPE_CHECKING:
    from llguidance import LLExecutor, LLMatcher

_NOTHING_LEFT = "allowed_token_ids has no token that fits here"
_ALL_BAD = "bad_words leave no token that fits here"


class _Masked(Struct, frozen=True):
    """A row that may not sample every token."""

    row: int
    """Among the sampling rows."""
    choice: Choice
    guide: Guide | None
    """Of its grammar, once that has begun."""
    banned: list[int]


class MaskBuilder:
    """Keeps one buffer and one pool of threads. `vocab_size` is the width of the logits."""

    def __init__(self, vocab_size: int) -> None:
        self._row_bytes = 4 * -(-vocab_size // 32)
        self._buffer = bytearray()
        self._executor: LLExecutor | None = None

    def build(self, number: int, step: Step) -> tuple[Masks, list[tuple[Choice, str]]]:
        """The masks of a step, and the choices that cannot go on, with a sentence each."""
        masked = _masked_rows(step)
        if not masked:
            return Masks(number, b"", b""), []
        self._fill(masked)
        failed = {place: error for place, one in enumerate(masked) if (error := self._error_of(place, one))}
        size = self._row_bytes
        rows = array("i", [one.row for place, one in enumerate(masked) if place not in failed])
        if not failed:
            return Masks(number, rows.tobytes(), bytes(memoryview(self._buffer)[: size * len(rows)])), []
        good = [place for place in range(len(masked)) if place not in failed]
        bits = b"".join(self._buffer[place * size : (place + 1) * size] for place in good)
        return Masks(number, rows.tobytes(), bits), [(masked[place].choice, error) for place, error in failed.items()]

    def _fill(self, masked: list[_Masked]) -> None:
        """Each row's mask into its place of the buffer."""
        size = self._row_bytes
        if len(self._buffer) < size * len(masked):
            self._buffer = bytearray(size * len(masked))
        self._fill_guided([(one.guide.matcher, place) for place, one in enumerate(masked) if one.guide is not None])
        for place, one in enumerate(masked):
            if one.guide is None:
                self._buffer[place * size : (place + 1) * size] = b"\xff" * size
            for token in one.banned:
                self._buffer[place * size + token // 8] &= ~(1 << token % 8)

    def _fill_guided(self, places: list[tuple[LLMatcher, int]]) -> None:
        size = self._row_bytes
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        if len(places) == 1:
            matcher, place = places[0]
            matcher.unsafe_compute_mask_ptr(address + place * size, size)
        elif places:
            if self._executor is None:
                from llguidance import LLExecutor

                self._executor = LLExecutor()
            self._executor.unsafe_compute_mask_ptr(places, address, size, len(places))

    def _error_of(self, place: int, one: _Masked) -> str:
        """Why the choice has no token to go on with; empty: it has one."""
        guide, guides, bad_words = one.guide, one.choice.request.guides, one.choice.request.bad_words
        if guide is None or guides is None:
            return _ALL_BAD if bad_words is not None and bad_words.leaves_none(one.banned) else ""
        if guide.matcher.is_error():
            guide.look()
        elif guides.allowed >= 0 or one.banned:
            size = self._row_bytes
            if not int.from_bytes(self._buffer[place * size : (place + 1) * size], "little") & guides.allowed:
                guide.fail(_ALL_BAD if one.banned else _NOTHING_LEFT)
        return guide.error


def _masked_rows(step: Step) -> list[_Masked]:
    """Those of a step that a grammar or a bad word keeps from some tokens."""
    found: list[_Masked] = []
    index = -1
    for row in step.rows:
        if not row.samples:
            continue
        index += 1
        choice = row.choice
        guide, bad_words = choice.guide, choice.request.bad_words
        if choice.status is Status.FINISHED:
            continue
        if guide is not None and not guide.is_active:
            guide = None
        banned: list[int] = []
        if bad_words is not None:
            banned = bad_words.banned(choice.ids, choice.request.num_prompt_tokens, is_guided=guide is not None)
        if guide is not None or banned:
            found.append(_Masked(index, choice, guide, banned))
    return found
