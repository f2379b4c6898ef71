"""The persistent batch: for each slot its token ids, block table and sampling parameters, kept between steps.

A Plan is applied as differences; the inputs of its step are then read out in columns, without a loop
over rows. Sampled tokens are appended here, so that the next plan can be carried out before the
engine has seen them. Knows no tensors.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from quire.shared.messages import NewRow, Plan

from .errors import PlanError
from .sampling_state import SamplingState

Ints = npt.NDArray[np.integer[Any]]
Int32s = npt.NDArray[np.int32]


class Limits(Struct, frozen=True):
    """What was agreed on when the worker was configured."""

    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    block_size: int
    num_blocks: int
    vocab_size: int


class StepInputs(Struct, frozen=True):
    """One step in columns, all int32: T scheduled tokens of B rows, of which N sample."""

    slots: Int32s
    """[B]"""
    input_ids: Int32s
    """[T]"""
    positions: Int32s
    """[T]"""
    slot_mapping: Int32s
    """[T]: where a token's KV is written, block * block_size + offset."""
    cu_q: Int32s
    """[B + 1]: row b's tokens are cu_q[b] : cu_q[b + 1]."""
    seq_lens: Int32s
    """[B]: tokens in the cache after this step's are written."""
    block_tables: Int32s
    """[B, blocks of the longest]"""
    sampling_rows: Int32s
    """[N]: the rows that have caught up with their tokens."""


def int32s(data: bytes) -> Int32s:
    return np.frombuffer(data, np.int32)


class BatchState:
    """All slots. Raises PlanError for plans that would reach outside of them."""

    def __init__(self, limits: Limits, sampling: SamplingState) -> None:
        self.limits = limits
        self.sampling = sampling
        # Beyond the longest text: the token sampled at its end, and the one planned before that was known.
        num_columns = limits.max_model_len + 2
        self.token_ids = np.zeros((limits.max_num_seqs, num_columns), np.int32)
        self.block_tables = np.zeros((limits.max_num_seqs, -(-num_columns // limits.block_size)), np.int32)
        self.num_tokens = np.zeros(limits.max_num_seqs, np.int64)
        self.num_prompt_tokens = np.zeros(limits.max_num_seqs, np.int64)
        self.num_blocks = np.zeros(limits.max_num_seqs, np.int64)

    def apply(self, plan: Plan) -> None:
        """Released, new rows, added blocks; copies are the KV cache's."""
        for slot in plan.released:
            self._check_slots(np.array([slot]))
            self._reset(slot)
        for row in plan.new_rows:
            self._add_row(row)
        if plan.added_block_slots:
            self._add_blocks(int32s(plan.added_block_slots), int32s(plan.added_block_ids))

    def inputs(self, plan: Plan) -> StepInputs:
        """The columns of the plan's step."""
        slots, num_scheduled, num_computed = (
            int32s(column) for column in (plan.slots, plan.num_scheduled, plan.num_computed)
        )
        seq_lens = num_computed + num_scheduled
        self._check_step(slots, num_scheduled, num_computed, seq_lens)
        num_rows, size = len(slots), self.limits.block_size
        cu_q = np.zeros(num_rows + 1, np.int32)
        np.cumsum(num_scheduled, out=cu_q[1:])
        if num_rows == cu_q[-1]:
            token_slots, positions = slots, num_computed
        else:
            token_slots = np.repeat(slots, num_scheduled)
            positions = np.arange(cu_q[-1], dtype=np.int32) + np.repeat(num_computed - cu_q[:-1], num_scheduled)
        blocks = self.block_tables[token_slots, positions // size]
        num_table_blocks = -(-int(seq_lens.max(initial=0)) // size)
        return StepInputs(
            slots=slots,
            input_ids=self.token_ids[token_slots, positions],
            positions=positions,
            slot_mapping=blocks * np.int32(size) + positions % np.int32(size),
            cu_q=cu_q,
            seq_lens=seq_lens,
            block_tables=self.block_tables[slots, :num_table_blocks],
            sampling_rows=np.flatnonzero(seq_lens == self.num_tokens[slots]).astype(np.int32),
        )

    def copies(self, plan: Plan) -> Int32s:
        """[pairs, 2]: from block, to block."""
        pairs = int32s(plan.copies).reshape(-1, 2)
        if pairs.min() < 0 or pairs.max() >= self.limits.num_blocks:
            raise PlanError(f"copies {pairs.tolist()} of {self.limits.num_blocks} blocks")
        return pairs

    def append(self, slots: Int32s, token_ids: Int32s) -> None:
        """One sampled token to each of these slots."""
        self.token_ids[slots, self.num_tokens[slots]] = token_ids
        self.num_tokens[slots] += 1

    def _reset(self, slot: int) -> None:
        self.num_tokens[slot] = self.num_prompt_tokens[slot] = self.num_blocks[slot] = 0
        self.block_tables[slot] = 0
        self.sampling.reset(slot)

    def _add_row(self, row: NewRow) -> None:
        slot, token_ids, blocks = row.slot, int32s(row.token_ids), int32s(row.block_ids)
        self._check_slots(np.array([slot]))
        if not 0 < row.num_prompt_tokens <= len(token_ids) <= self.limits.max_model_len + 1:
            raise PlanError(f"slot {slot}: {row.num_prompt_tokens} prompt tokens of {len(token_ids)} tokens")
        self._reset(slot)
        # The tokenizer and the engine have refused ids outside the vocabulary; an embedding must not see any.
        np.clip(token_ids, 0, self.limits.vocab_size - 1, out=self.token_ids[slot, : len(token_ids)])
        self.num_tokens[slot] = len(token_ids)
        self.num_prompt_tokens[slot] = row.num_prompt_tokens
        self._add_blocks(np.full(len(blocks), slot, np.int32), blocks)
        self.sampling.set(slot, row.sampling, row.seed)

    def _add_blocks(self, slots: Int32s, block_ids: Int32s) -> None:
        """Append block i to the table of slot i; a slot may come several times."""
        if not len(slots):
            return
        self._check_slots(slots)
        if block_ids.min() < 0 or block_ids.max() >= self.limits.num_blocks:
            raise PlanError(f"block ids {block_ids.tolist()} of {self.limits.num_blocks} blocks")
        order = np.argsort(slots, kind="stable")
        slots, block_ids = slots[order], block_ids[order]
        is_first = np.r_[True, slots[1:] != slots[:-1]]
        starts = np.flatnonzero(is_first)
        counts = np.diff(np.r_[starts, len(slots)])
        places = self.num_blocks[slots] + np.arange(len(slots)) - np.repeat(starts, counts)
        if places.max() >= self.block_tables.shape[1]:
            raise PlanError(f"slot {int(slots[places.argmax()])}: more blocks than its longest text takes")
        self.block_tables[slots, places] = block_ids
        self.num_blocks[slots[starts]] += counts

    def _check_slots(self, slots: Ints) -> None:
        if slots.min() < 0 or slots.max() >= self.limits.max_num_seqs:
            raise PlanError(f"slots {slots.tolist()} of {self.limits.max_num_seqs}")

    def _check_step(self, slots: Int32s, num_scheduled: Int32s, num_computed: Int32s, seq_lens: Int32s) -> None:
        """That the step reaches neither outside a row's tokens nor outside its blocks."""
        if not len(slots) == len(num_scheduled) == len(num_computed):
            raise PlanError(f"columns of {len(slots)}, {len(num_scheduled)} and {len(num_computed)} rows")
        if not len(slots):
            return
        self._check_slots(slots)
        if num_scheduled.min() < 1 or num_computed.min() < 0:
            raise PlanError("a row without scheduled tokens, or with negative computed ones")
        if int(num_scheduled.sum()) > self.limits.max_num_batched_tokens:
            raise PlanError(
                f"{int(num_scheduled.sum())} tokens are over the budget of {self.limits.max_num_batched_tokens}"
            )
        room = np.minimum(self.num_tokens[slots], self.num_blocks[slots] * self.limits.block_size)
        if (seq_lens > room).any():
            row = int(np.argmax(seq_lens > room))
            raise PlanError(f"slot {int(slots[row])}: {int(seq_lens[row])} tokens, but it has {int(room[row])}")
