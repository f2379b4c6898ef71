"""Beam search over any source of likeliest next tokens: which beams go on, which have ended, and when to stop.

A pure state machine, whose results are those of transformers' `generate(num_beams=...)`. Whoever drives it has
`next_tokens` found for every beam that runs, by the same model, and calls `step`. Knows no model and no text.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec

EarlyStopping = Literal["never"] | bool


class Beam(msgspec.Struct, frozen=True):
    """Output tokens, and the sum of their logprobs (of one that has ended: divided by its length's penalty)."""

    token_ids: tuple[int, ...]
    score: float


Found = TypeVar("Found")


class BeamTrails(Generic[Found]):
    """What was found with each token of the beams, for those that are still of interest.

    Beams of one origin share the beginning of their trails. Before each step of the search: `note`; after it: `keep`.
    """

    def __init__(self) -> None:
        self._trails: dict[tuple[int, ...], Any] = {(): None}
        """Tokens -> (trail of all but the last, what was found with the last)."""
        self._noted: dict[tuple[int, ...], Mapping[int, Found]] = {}

    def note(self, running: Sequence[Beam], found: Sequence[Mapping[int, Found]]) -> None:
        """What was found, by token id, with the tokens that may come next, for each running beam."""
        self._noted = {beam.token_ids: one for beam, one in zip(running, found, strict=True)}

    def keep(self, beams: Iterable[Beam]) -> None:
        """Those that run or have ended; all else is forgotten."""
        before, self._trails = self._trails, {}
        for beam in beams:
            ids = beam.token_ids
            if ids in before:
                self._trails[ids] = before[ids]
            else:
                self._trails[ids] = (before[ids[:-1]], self._noted[ids[:-1]][ids[-1]])
        self._noted = {}

    def of(self, beam: Beam) -> list[Found]:
        """One for each of its tokens."""
        found: list[Found] = []
        trail = self._trails[beam.token_ids]
        while trail is not None:
            trail, last = trail
            found.append(last)
        return found[::-1]


class BeamSearch:
    """One prompt's. `running` are the beams to be continued, best first; none when the search is over.

    early_stopping: False ends it when the best beam, were it to end now, is worse than all of `width` ended ones;
    True as soon as `width` have ended; "never" only when no beam can become better at any length.
    """

    def __init__(
        self,
        width: int,
        max_tokens: int,
        eos_token_ids: Iterable[int] = (),
        length_penalty: float = 1.0,
        early_stopping: EarlyStopping = False,
    ) -> None:
        self._width = width
        self._max_tokens = max_tokens
        self._eos = frozenset(eos_token_ids)
        self._length_penalty = length_penalty
        self._early_stopping = early_stopping
        self.running: list[Beam] = [Beam((), 0.0)]
        self._ended: list[Beam] = []

    @property
    def num_candidates(self) -> int:
        """How many likeliest tokens of each beam suffice: enough to go on even if every end is among them."""
        return max(2, 1 + len(self._eos)) * self._width

    @property
    def best(self) -> list[Beam]:
        """The ended beams, best first, at most `width`."""
        return list(self._ended)

    def step(self, next_tokens: Sequence[Sequence[tuple[int, float]]]) -> None:
        """next_tokens: for each running beam its likeliest tokens with their logprobs, likeliest first."""
        candidates = heapq.nlargest(
            self.num_candidates,
            (
                (beam.score + logprob, -index, -rank, token_id)
                for index, (beam, tokens) in enumerate(zip(self.running, next_tokens, strict=True))
                for rank, (token_id, logprob) in enumerate(tokens)
            ),
        )
        going_on: list[Beam] = []
        for place, (score, index, _, token_id) in enumerate(candidates):
            token_ids = (*self.running[-index].token_ids, token_id)
            if token_id in self._eos or len(token_ids) == self._max_tokens:
                # One that ends below the first `width` would have been cut off if it had gone on.
                if place < self._width:
                    self._ended.append(Beam(token_ids, score / len(token_ids) ** self._length_penalty))
            elif len(going_on) < self._width:
                going_on.append(Beam(token_ids, score))
        self._ended = heapq.nlargest(self._width, self._ended, key=lambda beam: beam.score)
        self.running = going_on if going_on and self._can_improve(going_on[0]) else []

    def _can_improve(self, best: Beam) -> bool:
        if len(self._ended) < self._width:
            return True
        if self._early_stopping is True:
            return False
        is_longest_best = self._early_stopping == "never" and self._length_penalty > 0
        length = self._max_tokens if is_longest_best else len(best.token_ids)
        return best.score / length**self._length_penalty > self._ended[-1].score
