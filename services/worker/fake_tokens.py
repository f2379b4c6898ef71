"""The next token of a row as a function of its whole history, in place of a model.

Used by fake_rows.py. A history is known by its rolling hash, so that a worker can go on from any point
of it, and a test can say what must come. Knows nothing of slots and blocks.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

Ids = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]

MULTIPLIER = 0x9E3779B97F4A7C15
WORD = 1 << 64


class Tokens(Struct, frozen=True):
    """How next tokens are chosen. `pool`: those that may come; none of them ends a choice."""

    pool: tuple[int, ...]
    eos_token_ids: tuple[int, ...] = ()
    eos_probability: float = 0.0
    failure_probability: float = 0.0
    """Of a row whose logits are "not finite"."""
    is_by_step: bool = False
    """All rows of step s get pool[s % len(pool)]: a client then knows the step of each token."""


def prefix_hashes(token_ids: Ids) -> Hashes:
    """[n] -> [n]: entry i is h(i) = h(i - 1) * multiplier + id + 1, that is, a hash of ids[: i + 1]."""
    count = len(token_ids)
    powers = np.full(count, MULTIPLIER, np.uint64)
    inverses = np.full(count, pow(MULTIPLIER, -1, WORD), np.uint64)
    powers[:1] = inverses[:1] = 1
    powers, inverses = np.cumprod(powers), np.cumprod(inverses)
    return np.cumsum((token_ids.astype(np.uint64) + np.uint64(1)) * inverses) * powers


def mixed(words: Hashes) -> Hashes:
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014): every bit depends on every bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def appended(hashes: Hashes, token_ids: Ids) -> Hashes:
    """The hashes [n] of histories grown by one token each."""
    return hashes * np.uint64(MULTIPLIER) + (token_ids.astype(np.uint64) + np.uint64(1))


def keyed(seeds: Hashes) -> Hashes:
    """What is added to the hashes of rows with these seeds before they are mixed."""
    return seeds * np.uint64(MULTIPLIER)


class NextTokens:
    """Draws tokens as `tokens` says; `words` are mixed hashes, one a row."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens
        self._pool = np.array(tokens.pool, np.int32)
        self.sorted_pool = np.sort(self._pool)
        self._eos = np.array(tokens.eos_token_ids[:1] or (0,), np.int32)

    def drawn(self, step: int, words: Hashes, may_end: npt.NDArray[np.bool_], allowed: dict[int, Ids]) -> Ids:
        """[n]. `may_end`: rows past their min_tokens; `allowed`: by row, the only ids that may come."""
        if self._tokens.is_by_step:
            return np.full(len(words), self._pool[step % len(self._pool)], np.int32)
        draws = (words >> np.uint64(20)).astype(np.int64)
        token_ids = self._pool[draws % len(self._pool)]
        for row, ids in allowed.items():
            token_ids[row] = ids[draws[row] % len(ids)]
        if self._tokens.eos_probability:
            is_end = (words & np.uint64(0xFFFF)) < self._tokens.eos_probability * 65536
            token_ids = np.where(is_end & may_end, self._eos, token_ids)
        return token_ids

    def failed(self, words: Hashes) -> list[int]:
        """Rows whose logits are not finite."""
        if not self._tokens.failure_probability:
            return []
        return np.flatnonzero((words >> np.uint64(48)) < self._tokens.failure_probability * 65536).tolist()
