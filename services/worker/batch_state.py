"""The persistent batch: for each slot its token ids, block table and sampling parameters, kept between steps.

A Plan is applied as differences; the inputs of its step are then read out in columns, without a loop
over rows. Sampled tokens are appended here, so that the next plan can be carried out before the
engine has seen them. Knows no tensors.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from quire.shared.messages import NewRow, Plan

from .sampling_state import SamplingState
from .slot_lengths import Int32s, Limits, SlotLengths, int32s


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


class BatchState(SlotLengths):
    """All slots. Raises PlanError for plans that would reach outside of them."""

    def __init__(self, limits: Limits, sampling: SamplingState) -> None:
        super().__init__(limits)
        self.sampling = sampling
        self.token_ids = np.zeros((limits.max_num_seqs, limits.num_ids), np.int32)
        self.block_tables = np.zeros((limits.max_num_seqs, limits.num_table_blocks), np.int32)

    def apply(self, plan: Plan) -> None:
        """Released, new rows, added blocks; copies are the KV cache's."""
        for slot in plan.released:
            self.check_slots(np.array([slot]))
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
        seq_lens = self.check_step(slots, num_scheduled, num_computed)
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

    def append(self, slots: Int32s, token_ids: Int32s) -> None:
        """One sampled token to each of these slots."""
        self.token_ids[slots, self.num_tokens[slots]] = token_ids
        self.num_tokens[slots] += 1

    def _reset(self, slot: int) -> None:
        self.reset_lengths(slot)
        self.block_tables[slot] = 0
        self.sampling.reset(slot)

    def _add_row(self, row: NewRow) -> None:
        self.check_slots(np.array([row.slot]))
        self._reset(row.slot)
        token_ids, blocks = self.add_lengths(row), int32s(row.block_ids)
        self.token_ids[row.slot, : len(token_ids)] = token_ids
        self._add_blocks(np.full(len(blocks), row.slot, np.int32), blocks)
        self.sampling.set(row.slot, row.sampling, row.seed)

    def _add_blocks(self, slots: Int32s, block_ids: Int32s) -> None:
        """Append block i to the table of slot i; a slot may come several times."""
        if len(slots):
            slots, places, block_ids = self.place_blocks(slots, block_ids)
            self.block_tables[slots, places] = block_ids
