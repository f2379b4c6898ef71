"""Rows, block tables and KV contents of a worker that has no model, checked at every plan.

Stands where batch state, KV cache and model stand in the real worker; used by fake.py.
The "KV" of a position is a hash of all token ids up to it, and the next token is a function of that
hash, so a wrong prompt, block table, prefix hit, copy or recomputation cannot go unnoticed.
Knows nothing of links or processes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from quire.shared.messages import NewRow, Plan, SamplingParams, StepResult

from .fake_logprobs import prompt_logprobs, sampled_logprobs

Ids = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]

_MULTIPLIER = 0x9E3779B97F4A7C15
_WORD = 1 << 64


class PlanError(ValueError):
    """A plan that breaks the contract of messages.Plan; the sentence says which row and how."""


class Limits(Struct, frozen=True):
    """What was agreed on at Configure."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int
    num_blocks: int


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
    powers = np.full(count, _MULTIPLIER, np.uint64)
    inverses = np.full(count, pow(_MULTIPLIER, -1, _WORD), np.uint64)
    powers[:1] = inverses[:1] = 1
    powers, inverses = np.cumprod(powers), np.cumprod(inverses)
    return np.cumsum((token_ids.astype(np.uint64) + np.uint64(1)) * inverses) * powers


def mixed(words: Hashes) -> Hashes:
    """The finalizer of splitmix64 (Steele, Lea, Flood 2014): every bit depends on every bit."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def _ids(data: bytes) -> Ids:
    return np.frombuffer(data, np.int32)


def _expect(is_right: npt.NDArray[np.bool_], what: str, rows: Ids, *values: npt.NDArray[np.integer]) -> None:
    """Raises PlanError with `what` for the first row that is not right."""
    if not is_right.all():
        wrong = int(np.argmin(is_right))
        details = ", ".join(str(int(value[wrong])) for value in values)
        raise PlanError(f"slot {int(rows[wrong])}: {what}" + (f" ({details})" if details else ""))


class FakeRows:
    """All slots. `apply` takes plans in order; raises PlanError and is then of no further use."""

    def __init__(self, limits: Limits, tokens: Tokens) -> None:
        seqs, longest = limits.max_num_seqs, limits.max_model_len + 2
        self.limits = limits
        self.tokens = tokens
        self._pool = np.array(tokens.pool, np.int32)
        self._sorted_pool = np.sort(self._pool)
        self._eos = np.array(tokens.eos_token_ids[:1] or (0,), np.int32)
        self._last_step = -1
        self._is_live = np.zeros(seqs, np.bool_)
        self._num_tokens = np.zeros(seqs, np.int64)
        self._num_prompt = np.zeros(seqs, np.int64)
        self._min_tokens = np.zeros(seqs, np.int64)
        self._seeds = np.zeros(seqs, np.uint64)
        self._hashes = np.zeros((seqs, longest), np.uint64)
        self._num_row_blocks = np.zeros(seqs, np.int64)
        self._tables = np.zeros((seqs, -(-longest // limits.block_size) + 1), np.int32)
        self._num_users = np.zeros(limits.num_blocks, np.int32)
        """Live rows that have the block in their tables."""
        self._kv = np.zeros((limits.num_blocks, limits.block_size), np.uint64)
        self._allowed: dict[int, Ids] = {}
        self._want_logprobs: dict[int, SamplingParams] = {}
        self._prompt_ids: dict[int, Ids] = {}
        """Of rows that want prompt logprobs."""

    @property
    def num_live(self) -> int:
        return int(self._is_live.sum())

    def apply(self, plan: Plan) -> StepResult:
        """One step, in the order messages.Plan states; the result without its seconds."""
        if plan.step <= self._last_step:
            raise PlanError(f"step {plan.step} came after step {self._last_step}")
        self._last_step = plan.step
        for slot in plan.released:
            self._release(slot)
        for row in plan.new_rows:
            self._add_row(row)
        for slot, block in zip(_ids(plan.added_block_slots).tolist(), _ids(plan.added_block_ids).tolist(), strict=True):
            self._add_blocks(slot, np.array([block], np.int32))
        for source, target in _ids(plan.copies).reshape(-1, 2).tolist():
            self._copy(source, target)
        slots, scheduled, computed = _ids(plan.slots), _ids(plan.num_scheduled), _ids(plan.num_computed)
        self._check_columns(slots, scheduled, computed)
        self._write(slots, scheduled, computed, plan.new_rows)
        self._check_reads(plan.new_rows, slots, computed)
        return self._sample(plan.step, slots, scheduled, computed)

    def _release(self, slot: int) -> None:
        self._check_live(slot)
        self._is_live[slot] = False
        np.subtract.at(self._num_users, self._tables[slot, : self._num_row_blocks[slot]], 1)
        for held in (self._allowed, self._want_logprobs, self._prompt_ids):
            held.pop(slot, None)

    def _add_row(self, row: NewRow) -> None:
        slot, ids = row.slot, _ids(row.token_ids)
        if not 0 <= slot < self.limits.max_num_seqs or self._is_live[slot]:
            raise PlanError(f"slot {slot}: a new row for a slot that is in use or does not exist")
        if not 0 < row.num_prompt_tokens <= len(ids) <= self.limits.max_model_len:
            raise PlanError(f"slot {slot}: {row.num_prompt_tokens} prompt tokens of {len(ids)} tokens")
        if not 0 <= row.num_computed_tokens < len(ids):
            raise PlanError(f"slot {slot}: {row.num_computed_tokens} computed tokens of {len(ids)}")
        if ids.min() < 0:
            raise PlanError(f"slot {slot}: token id {int(ids.min())}")
        self._is_live[slot] = True
        self._num_tokens[slot] = len(ids)
        self._num_prompt[slot] = row.num_prompt_tokens
        self._hashes[slot, : len(ids)] = prefix_hashes(ids)
        self._num_row_blocks[slot] = 0
        self._add_blocks(slot, _ids(row.block_ids))
        self._set_sampling(slot, row, ids)

    def _set_sampling(self, slot: int, row: NewRow, ids: Ids) -> None:
        sampling = row.sampling
        self._seeds[slot] = row.seed % _WORD if sampling.temperature > 0 else 0
        self._min_tokens[slot] = sampling.min_tokens
        if sampling.allowed_token_ids is not None:
            self._allowed[slot] = np.array(sampling.allowed_token_ids, np.int32)
        if sampling.logprobs is not None or sampling.prompt_logprobs is not None:
            self._want_logprobs[slot] = sampling
        if sampling.prompt_logprobs is not None:
            self._prompt_ids[slot] = ids[: row.num_prompt_tokens]

    def _add_blocks(self, slot: int, blocks: Ids) -> None:
        self._check_live(slot)
        if len(blocks) and not 0 <= blocks.min() <= blocks.max() < self.limits.num_blocks:
            raise PlanError(f"slot {slot}: block ids {blocks.tolist()} of {self.limits.num_blocks} blocks")
        start = int(self._num_row_blocks[slot])
        if start + len(blocks) > self._tables.shape[1]:
            raise PlanError(f"slot {slot}: {start + len(blocks)} blocks are more than its longest text takes")
        self._tables[slot, start : start + len(blocks)] = blocks
        self._num_row_blocks[slot] = start + len(blocks)
        np.add.at(self._num_users, blocks, 1)

    def _copy(self, source: int, target: int) -> None:
        if not (0 <= source < self.limits.num_blocks and 0 <= target < self.limits.num_blocks):
            raise PlanError(f"copy of block {source} to {target}, of {self.limits.num_blocks} blocks")
        if self._num_users[target] > 1:
            raise PlanError(f"copy to block {target}, which {int(self._num_users[target])} rows read")
        self._kv[target] = self._kv[source]

    def _check_live(self, slot: int) -> None:
        if not 0 <= slot < self.limits.max_num_seqs or not self._is_live[slot]:
            raise PlanError(f"slot {slot}: it holds no row")

    def _check_columns(self, slots: Ids, scheduled: Ids, computed: Ids) -> None:
        if not len(slots) == len(scheduled) == len(computed):
            raise PlanError(f"columns of {len(slots)}, {len(scheduled)} and {len(computed)} rows")
        if not len(slots):
            return
        if slots.min() < 0 or slots.max() >= self.limits.max_num_seqs:
            raise PlanError(f"slots {slots.tolist()} of {self.limits.max_num_seqs}")
        if len(np.unique(slots)) != len(slots):
            raise PlanError(f"a slot twice in one step: {slots.tolist()}")
        if int(scheduled.sum()) > self.limits.max_num_batched_tokens:
            raise PlanError(
                f"{int(scheduled.sum())} tokens are over the budget of {self.limits.max_num_batched_tokens}"
            )
        _expect(self._is_live[slots], "it holds no row", slots)
        _expect(scheduled > 0, "no tokens scheduled", slots)
        _expect(computed >= 0, "negative computed tokens", slots, computed)
        ends, lengths = computed + scheduled, self._num_tokens[slots]
        _expect(ends <= lengths, "more tokens scheduled than it has (end, tokens)", slots, ends, lengths)
        _expect(lengths <= self.limits.max_model_len, "its text is over max_model_len", slots, lengths)
        room = self._num_row_blocks[slots] * self.limits.block_size
        _expect(ends <= room, "its blocks do not cover its tokens (end, room)", slots, ends, room)
        num_singles = int((scheduled == 1).sum())
        _expect(scheduled[:num_singles] == 1, "a row of one token stands after one of more", slots)

    def _write(self, slots: Ids, scheduled: Ids, computed: Ids, new_rows: list[NewRow]) -> None:
        """Every scheduled position, each by one row.

        Other holders of a written block must be new in this very plan: they may read what the step writes.
        """
        held_by_new = np.zeros(self.limits.num_blocks, np.int32)
        for row in new_rows:
            np.add.at(held_by_new, _ids(row.block_ids), 1)
        size = self.limits.block_size
        total = int(scheduled.sum())
        rows = np.repeat(slots, scheduled)
        first = np.repeat(np.cumsum(scheduled) - scheduled, scheduled)
        places = np.repeat(computed, scheduled) + np.arange(total) - first
        blocks = self._tables[rows, places // size]
        is_old = ~np.isin(rows, [row.slot for row in new_rows])
        others = self._num_users[blocks] - held_by_new[blocks] - is_old
        _expect(others == 0, "it writes to a block that other rows hold (block)", rows, blocks)
        if len(np.unique(blocks.astype(np.int64) * size + places % size)) != total:
            raise PlanError("two rows write to the same place of one block")
        self._kv[blocks, places % size] = self._hashes[rows, places]

    def _check_reads(self, new_rows: list[NewRow], slots: Ids, computed: Ids) -> None:
        """What a row reads is what its tokens say: all of it when it is new, then its newest position.

        Positions in between cannot have changed: nobody writes to a block that two rows hold.
        """
        size = self.limits.block_size
        for row in new_rows:
            places = np.arange(row.num_computed_tokens)
            kv = self._kv[self._tables[row.slot, places // size], places % size]
            whose = np.full(len(places), row.slot, np.int32)
            _expect(kv == self._hashes[row.slot, : len(places)], "wrong KV taken as computed (position)", whose, places)
        places = np.maximum(computed - 1, 0)
        kv = self._kv[self._tables[slots, places // size], places % size]
        is_right = (kv == self._hashes[slots, places]) | (computed == 0)
        _expect(is_right, "wrong KV taken as computed (position)", slots, places)

    def _sample(self, step: int, slots: Ids, scheduled: Ids, computed: Ids) -> StepResult:
        is_sampling = computed + scheduled == self._num_tokens[slots]
        rows = slots[is_sampling]
        lengths = self._num_tokens[rows]
        words = mixed(self._hashes[rows, lengths - 1] + self._seeds[rows] * np.uint64(_MULTIPLIER))
        token_ids = self._chosen(step, rows, words, lengths - self._num_prompt[rows])
        self._hashes[rows, lengths] = self._hashes[rows, lengths - 1] * np.uint64(_MULTIPLIER) + (
            token_ids.astype(np.uint64) + np.uint64(1)
        )
        self._num_tokens[rows] = lengths + 1
        failed: list[int] = []
        if self.tokens.failure_probability:
            failed = np.flatnonzero((words >> np.uint64(48)) < self.tokens.failure_probability * 65536).tolist()
        logprobs, of_prompts = [], []
        if self._want_logprobs:
            logprobs = sampled_logprobs(rows, token_ids, self._want_logprobs, self._sorted_pool)
            of_prompts = prompt_logprobs(
                slots, scheduled, computed, self._prompt_ids, self._want_logprobs, self._sorted_pool
            )
        return StepResult(step, token_ids.tobytes(), failed, logprobs, of_prompts, 0.0)

    def _chosen(self, step: int, rows: Ids, words: Hashes, num_outputs: npt.NDArray[np.int64]) -> Ids:
        if self.tokens.is_by_step:
            return np.full(len(rows), self._pool[step % len(self._pool)], np.int32)
        draws = (words >> np.uint64(20)).astype(np.int64)
        token_ids = self._pool[draws % len(self._pool)]
        if self._allowed:
            for index, slot in enumerate(rows.tolist()):
                if slot in self._allowed:
                    token_ids[index] = self._allowed[slot][draws[index] % len(self._allowed[slot])]
        if self.tokens.eos_probability:
            is_end = (words & np.uint64(0xFFFF)) < self.tokens.eos_probability * 65536
            token_ids = np.where(is_end & (num_outputs >= self._min_tokens[rows]), self._eos, token_ids)
        return token_ids.astype(np.int32, copy=False)
