"""A step's changes to what the device keeps: words with their places, packed so that few copies carry all of them.

Filled by device_slots.py, sent by device_runner.py; kernels.write_words puts them where they belong.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from msgspec import Struct

from .slot_lengths import Int32s, Ints

_LONGEST_RUN = 8192
"""Words of a segment, which one program writes."""
_SEGMENT = 3
"""Words that name one: place, source, length."""


class Batch(Struct, frozen=True):
    """What one copy carries."""

    segments: Int32s
    """[S, 3], as kernels.write_words takes them; sources are counted from the first of `words`."""
    words: Int32s

    @property
    def size(self) -> int:
        return self.segments.size + self.words.size


class Changes:
    """Of one step; no two write the same word."""

    def __init__(self) -> None:
        self._pieces: list[Batch] = []

    def run(self, place: int, words: Int32s) -> None:
        """Words that follow one another from `place` on."""
        for begin in range(0, len(words), _LONGEST_RUN):
            piece = words[begin : begin + _LONGEST_RUN]
            self._pieces.append(Batch(np.array([[place + begin, 0, len(piece)]], np.int32), piece))

    def scatter(self, places: Ints, words: Int32s) -> None:
        """Single words, each with its place."""
        if not len(words):
            return
        segments = np.empty((len(places), _SEGMENT), np.int32)
        segments[:, 0] = places
        segments[:, 1] = np.arange(len(places))
        segments[:, 2] = 1
        self._pieces.append(Batch(segments, words))

    def batches(self, room: int) -> Iterator[Batch]:
        """All of them, in batches of at most `room` words."""
        taken: list[Batch] = []
        size = 0
        for piece in self._cut(room):
            if size + piece.size > room:
                yield _joined(taken)
                taken, size = [], 0
            taken.append(piece)
            size += piece.size
        if taken:
            yield _joined(taken)

    def _cut(self, room: int) -> Iterator[Batch]:
        for piece in self._pieces:
            if piece.size <= room:
                yield piece
            elif len(piece.segments) == 1:
                yield from _cut_run(piece, room - _SEGMENT)
            else:
                yield from _cut_words(piece, room // (_SEGMENT + 1))


def _cut_run(piece: Batch, length: int) -> Iterator[Batch]:
    place = int(piece.segments[0, 0])
    for begin in range(0, len(piece.words), length):
        words = piece.words[begin : begin + length]
        yield Batch(np.array([[place + begin, 0, len(words)]], np.int32), words)


def _cut_words(piece: Batch, count: int) -> Iterator[Batch]:
    for begin in range(0, len(piece.words), count):
        segments = piece.segments[begin : begin + count].copy()
        segments[:, 1] -= begin
        yield Batch(segments, piece.words[begin : begin + count])


def _joined(pieces: list[Batch]) -> Batch:
    if len(pieces) == 1:
        return pieces[0]
    begins = np.cumsum([0, *(len(piece.words) for piece in pieces[:-1])])
    segments = np.concatenate([piece.segments for piece in pieces])
    segments[:, 1] += np.repeat(begins, [len(piece.segments) for piece in pieces]).astype(np.int32)
    return Batch(segments, np.concatenate([piece.words for piece in pieces]))
