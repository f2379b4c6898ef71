"""How long each slot's row is, and the checks of a plan that follow from it: kept on the host by both runners.

The contract of messages.Plan; what breaks it is a PlanError, before anything reaches outside of a row's tokens or
blocks. Knows neither what the tokens are nor where they are kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from quire.shared.messages import NewRow, Plan

from .errors import PlanError

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

    @property
    def num_ids(self) -> int:
        """Of a slot: behind the longest text the token sampled at its end, and one planned before that was known."""
        return self.max_model_len + 2

    @property
    def num_table_blocks(self) -> int:
        return -(-self.num_ids // self.block_size)


def int32s(data: bytes) -> Int32s:
    return np.frombuffer(data, np.int32)


class SlotLengths:
    """Of all slots, in three columns. Raises PlanError for plans that would reach outside of them."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.num_tokens = np.zeros(limits.max_num_seqs, np.int64)
        self.num_prompt_tokens = np.zeros(limits.max_num_seqs, np.int64)
        self.num_blocks = np.zeros(limits.max_num_seqs, np.int64)

    def reset_lengths(self, slot: int) -> None:
        self.num_tokens[slot] = self.num_prompt_tokens[slot] = self.num_blocks[slot] = 0

    def add_lengths(self, row: NewRow) -> Int32s:
        """A slot that has been reset is taken; returns the row's token ids, all within the vocabulary."""
        slot, token_ids = row.slot, int32s(row.token_ids)
        if not 0 < row.num_prompt_tokens <= len(token_ids) <= self.limits.max_model_len + 1:
            raise PlanError(f"slot {slot}: {row.num_prompt_tokens} prompt tokens of {len(token_ids)} tokens")
        self.num_tokens[slot] = len(token_ids)
        self.num_prompt_tokens[slot] = row.num_prompt_tokens
        # The tokenizer and the engine have refused ids outside the vocabulary; an embedding must not see any.
        return np.clip(token_ids, 0, self.limits.vocab_size - 1)

    def place_blocks(self, slots: Int32s, block_ids: Int32s) -> tuple[Int32s, Ints, Int32s]:
        """Block i is appended to the table of slot i, and a slot may come several times: slots, places, block ids."""
        self.check_slots(slots)
        if block_ids.min() < 0 or block_ids.max() >= self.limits.num_blocks:
            raise PlanError(f"block ids {block_ids.tolist()} of {self.limits.num_blocks} blocks")
        order = np.argsort(slots, kind="stable")
        slots, block_ids = slots[order], block_ids[order]
        is_first = np.r_[True, slots[1:] != slots[:-1]]
        starts = np.flatnonzero(is_first)
        counts = np.diff(np.r_[starts, len(slots)])
        places = self.num_blocks[slots] + np.arange(len(slots)) - np.repeat(starts, counts)
        if places.max() >= self.limits.num_table_blocks:
            raise PlanError(f"slot {int(slots[places.argmax()])}: more blocks than its longest text takes")
        self.num_blocks[slots[starts]] += counts
        return slots, places, block_ids

    def copies(self, plan: Plan) -> Int32s:
        """[pairs, 2]: from block, to block."""
        pairs = int32s(plan.copies).reshape(-1, 2)
        if pairs.size and (pairs.min() < 0 or pairs.max() >= self.limits.num_blocks):
            raise PlanError(f"copies {pairs.tolist()} of {self.limits.num_blocks} blocks")
        return pairs

    def check_slots(self, slots: Ints) -> None:
        if slots.min() < 0 or slots.max() >= self.limits.max_num_seqs:
            raise PlanError(f"slots {slots.tolist()} of {self.limits.max_num_seqs}")

    def check_step(self, slots: Int32s, num_scheduled: Int32s, num_computed: Int32s) -> Int32s:
        """That the step reaches neither outside a row's tokens nor outside its blocks; returns the rows' seq_lens."""
        if not len(slots) == len(num_scheduled) == len(num_computed):
            raise PlanError(f"columns of {len(slots)}, {len(num_scheduled)} and {len(num_computed)} rows")
        seq_lens = num_computed + num_scheduled
        if not len(slots):
            return seq_lens
        self.check_slots(slots)
        if num_scheduled.min() < 1 or num_computed.min() < 0:
            raise PlanError("a row without scheduled tokens, or with negative computed ones")
        num_tokens = int(num_scheduled.sum())
        if num_tokens > self.limits.max_num_batched_tokens:
            raise PlanError(f"{num_tokens} tokens are over the budget of {self.limits.max_num_batched_tokens}")
        room = np.minimum(self.num_tokens[slots], self.num_blocks[slots] * self.limits.block_size)
        if (seq_lens > room).any():
            row = int(np.argmax(seq_lens > room))
            raise PlanError(f"slot {int(slots[row])}: {int(seq_lens[row])} tokens, but it has {int(room[row])}")
        return seq_lens
