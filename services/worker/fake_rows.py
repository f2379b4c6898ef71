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

from quire.shared.messages import Masks, NewRow, Plan, SamplingParams, StepResult

from .fake_logprobs import prompt_logprobs, sampled_logprobs
from .fake_tokens import WORD, Hashes, Ids, NextTokens, Tokens, appended, keyed, mixed, prefix_hashes

Bools = npt.NDArray[np.bool_]


class PlanError(ValueError):
    """A plan that breaks the contract of messages.Plan; the sentence says which row and how."""


class Limits(Struct, frozen=True):
    """What was agreed on at Configure."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int
    num_blocks: int


def _ids(data: bytes) -> Ids:
    return np.frombuffer(data, np.int32)


def _expect(is_right: Bools, what: str, rows: Ids, *values: npt.NDArray[np.integer]) -> None:
    """Raises PlanError with `what` for the first row that is not right."""
    if not is_right.all():
        wrong = int(np.argmin(is_right))
        details = ", ".join(str(int(value[wrong])) for value in values)
        raise PlanError(f"slot {int(rows[wrong])}: {what}" + (f" ({details})" if details else ""))


class _Steady(Struct, gc=False):
    """Rows that were all decoded by the last step; while nothing but blocks is added, less is to be checked."""

    slot_bytes: bytes
    slots: Ids
    lengths: npt.NDArray[np.int64]
    newest: Hashes
    """Hash of all tokens of each row."""
    num_outputs: npt.NDArray[np.int64]
    min_tokens: npt.NDArray[np.int64]
    seeds: Hashes
    ones: bytes


class FakeRows:
    """All slots. `apply` takes plans in order; raises PlanError and is then of no further use."""

    def __init__(self, limits: Limits, tokens: Tokens) -> None:
        seqs, longest = limits.max_num_seqs, limits.max_model_len + 2
        self.limits = limits
        self._next = NextTokens(tokens)
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
        self._steady: _Steady | None = None
        self._allowed: dict[int, Ids] = {}
        self._want_logprobs: dict[int, SamplingParams] = {}
        self._prompt_ids: dict[int, Ids] = {}
        """Of rows that want prompt logprobs."""

    def apply(self, plan: Plan, masks: Masks | None = None) -> StepResult:
        """One step, in the order messages.Plan states, sampling what `masks` allow; the result without its seconds."""
        if plan.step <= self._last_step:
            raise PlanError(f"step {plan.step} came after step {self._last_step}")
        self._last_step = plan.step
        steady = self._steady
        if steady is not None and not plan.new_rows and not plan.released and not plan.copies:
            self._add_single_blocks(plan)
            positions = _ids(plan.num_computed)
            if (
                masks is None
                and plan.slots == steady.slot_bytes
                and plan.num_scheduled == steady.ones
                and len(positions) == len(steady.slots) <= self.limits.max_num_batched_tokens
                and (positions == steady.lengths - 1).all()
            ):
                return self._decode(plan.step, steady, positions)
            return self._compute(plan, masks)
        for slot in plan.released:
            self._release(slot)
        for row in plan.new_rows:
            self._add_row(row)
        self._add_single_blocks(plan)
        for source, target in _ids(plan.copies).reshape(-1, 2).tolist():
            self._copy(source, target)
        return self._compute(plan, masks)

    def _compute(self, plan: Plan, masks: Masks | None) -> StepResult:
        slots, scheduled, computed = _ids(plan.slots), _ids(plan.num_scheduled), _ids(plan.num_computed)
        self._check_columns(slots, scheduled, computed)
        self._write(slots, scheduled, computed, plan.new_rows)
        self._check_reads(plan.new_rows, slots, computed)
        result = self._sample(plan.step, slots, scheduled, computed, masks)
        self._settle(plan, slots, scheduled, computed)
        return result

    def _settle(self, plan: Plan, slots: Ids, scheduled: Ids, computed: Ids) -> None:
        """Note whether the next step may be like this one."""
        self._steady = None
        lengths = self._num_tokens[slots]
        if len(slots) and (computed + scheduled + 1 == lengths).all() and not self._want_logprobs and not self._allowed:
            self._steady = _Steady(
                plan.slots,
                slots,
                lengths,
                self._hashes[slots, lengths - 1],
                lengths - self._num_prompt[slots],
                self._min_tokens[slots],
                keyed(self._seeds[slots]),
                np.ones(len(slots), np.int32).tobytes(),
            )

    def _decode(self, step: int, steady: _Steady, positions: Ids) -> StepResult:
        """A step of one token for each of the rows of the last step. What they read only they could have changed."""
        slots, size = steady.slots, self.limits.block_size
        _expect(steady.lengths <= self.limits.max_model_len, "its text is over max_model_len", slots, steady.lengths)
        places, offsets = np.divmod(positions, size)
        _expect(places < self._num_row_blocks[slots], "its blocks do not cover its tokens (position)", slots, positions)
        blocks = self._tables[slots, places]
        _expect(self._num_users[blocks] == 1, "it writes to a block that other rows hold (block)", slots, blocks)
        self._kv[blocks, offsets] = steady.newest
        words = mixed(steady.newest + steady.seeds)
        token_ids = self._next.drawn(step, words, steady.num_outputs >= steady.min_tokens, {})
        steady.newest = appended(steady.newest, token_ids)
        self._hashes[slots, steady.lengths] = steady.newest
        steady.lengths = steady.lengths + 1
        steady.num_outputs = steady.num_outputs + 1
        self._num_tokens[slots] = steady.lengths
        return StepResult(step, token_ids.tobytes(), self._next.failed(words), [], [], 0.0)

    def _add_single_blocks(self, plan: Plan) -> None:
        for slot, block in zip(_ids(plan.added_block_slots).tolist(), _ids(plan.added_block_ids).tolist(), strict=True):
            self._add_blocks(slot, np.array([block], np.int32))

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
        self._seeds[slot] = row.seed % WORD if sampling.temperature > 0 else 0
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

    def _sample(self, step: int, slots: Ids, scheduled: Ids, computed: Ids, masks: Masks | None) -> StepResult:
        is_sampling = computed + scheduled == self._num_tokens[slots]
        rows = slots[is_sampling]
        lengths = self._num_tokens[rows]
        newest = self._hashes[rows, lengths - 1]
        words = mixed(newest + keyed(self._seeds[rows]))
        allowed = {row: self._allowed[slot] for row, slot in enumerate(rows.tolist()) if slot in self._allowed}
        if masks is not None:
            allowed |= _allowed_by(masks, allowed, len(rows))
        may_end = lengths - self._num_prompt[rows] >= self._min_tokens[rows]
        token_ids = self._next.drawn(step, words, may_end, allowed)
        self._hashes[rows, lengths] = appended(newest, token_ids)
        self._num_tokens[rows] = lengths + 1
        logprobs, of_prompts = [], []
        if self._want_logprobs:
            logprobs = sampled_logprobs(rows, token_ids, self._want_logprobs, self._next.sorted_pool)
            of_prompts = prompt_logprobs(
                slots, scheduled, computed, self._prompt_ids, self._want_logprobs, self._next.sorted_pool
            )
        return StepResult(step, token_ids.tobytes(), self._next.failed(words), logprobs, of_prompts, 0.0)


def _allowed_by(masks: Masks, allowed: dict[int, Ids], num_rows: int) -> dict[int, Ids]:
    """By sampling row: the ids that its mask has, and its request allows."""
    rows = _ids(masks.rows)
    if not len(rows):
        return {}
    if not 0 <= rows.min() <= rows.max() < num_rows:
        raise PlanError(f"masks for rows {rows.tolist()} of {num_rows} sampling rows")
    bits = np.frombuffer(masks.bits, np.uint8).reshape(len(rows), -1)
    found = {}
    for row, packed in zip(rows.tolist(), bits, strict=True):
        ids = np.flatnonzero(np.unpackbits(packed, bitorder="little")).astype(np.int32)
        if row in allowed:
            ids = np.intersect1d(ids, allowed[row])
        if not len(ids):
            raise PlanError(f"the mask of sampling row {row} allows nothing")
        found[row] = ids
    return found
