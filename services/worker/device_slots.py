"""The host's view of a device's slots: how long each row is, what it asked for, and what a plan changes on the device.

Plans are applied here first, and checked; what they change there comes out as words and places. Knows no tensors:
tokens that are sampled stay on the device, and only their number is known here.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from quire.kernels import ALWAYS, SUPPRESSED, num_mask_words
from quire.shared.messages import NewRow, Plan

from .packed_changes import Changes
from .sampling_state import Edits, SamplingState
from .slot_lengths import Int32s, Ints, Limits, SlotLengths, int32s
from .slot_tensors import MAX_EDITS, Places

_FLOATS = ("temperature", "top_p", "min_p", "repetition", "frequency", "presence")


class DeviceSlots(SlotLengths):
    """All slots. Raises PlanError for plans that would reach outside of them."""

    def __init__(self, limits: Limits, places: Places, eos_token_ids: Iterable[int]) -> None:
        super().__init__(limits)
        self.sampling = SamplingState(limits.max_num_seqs, limits.vocab_size, eos_token_ids)
        self.has_allowed = np.zeros(limits.max_num_seqs, np.bool_)
        """Whether a slot's row may draw only some tokens."""
        self._begins = places.begins

    def apply(self, plan: Plan) -> Changes:
        """Released, new rows, added blocks."""
        changes = Changes()
        for slot in plan.released:
            self.check_slots(np.array([slot]))
            self._reset(slot)
        for row in plan.new_rows:
            self._add_row(row, changes)
        if plan.added_block_slots:
            self._add_blocks(int32s(plan.added_block_slots), int32s(plan.added_block_ids), changes)
        return changes

    def penalised(self, rows: Iterable[NewRow]) -> list[NewRow]:
        """Those of which the sampler must know all tokens."""
        has_penalties = self.sampling.columns["has_penalties"]
        return [row for row in rows if has_penalties[row.slot]]

    def _reset(self, slot: int) -> None:
        self.reset_lengths(slot)
        self.sampling.reset(slot)
        self.has_allowed[slot] = False

    def _add_row(self, row: NewRow, changes: Changes) -> None:
        slot = row.slot
        self.check_slots(np.array([slot]))
        self._reset(slot)
        token_ids, blocks = self.add_lengths(row), int32s(row.block_ids)
        changes.run(self._begins["token_ids"] + slot * self.limits.num_ids, token_ids)
        self._add_blocks(np.full(len(blocks), slot, np.int32), blocks, changes)
        self.sampling.set(slot, row.sampling, row.seed)
        num_edits = self._add_edits(slot, changes)
        self._add_columns(slot, len(token_ids) - row.num_prompt_tokens, num_edits, changes)

    def _add_blocks(self, slots: Int32s, block_ids: Int32s, changes: Changes) -> None:
        if len(slots):
            slots, places, block_ids = self.place_blocks(slots, block_ids)
            begin = self._begins["block_tables"]
            changes.scatter(begin + slots.astype(np.int64) * self.limits.num_table_blocks + places, block_ids)

    def _add_columns(self, slot: int, num_outputs: int, num_edits: int, changes: Changes) -> None:
        columns, begins = self.sampling.columns[slot], self._begins
        floats = np.array([columns[name] for name in _FLOATS], np.float32)
        if columns["is_greedy"]:
            floats[0] = 0.0
        words = np.empty(11, np.int32)
        words[:6] = floats.view(np.int32)
        words[6:9] = columns["top_k"], num_outputs, num_edits
        words[9:] = columns["seed"].reshape(1).view(np.int32)
        places = [begins[name] + slot for name in (*_FLOATS, "top_k", "num_outputs", "num_edits")]
        places += [begins["seed"] + 2 * slot, begins["seed"] + 2 * slot + 1]
        changes.scatter(np.array(places), words)

    def _add_edits(self, slot: int, changes: Changes) -> int:
        """The number of a row's edits; what it allows goes the way of a grammar."""
        edits = self.sampling.edits.get(slot)
        if edits is None:
            return 0
        ids, values, until = _edit_columns(edits, int(self.sampling.columns["min_tokens"][slot]))
        banned = ids[MAX_EDITS:][values[MAX_EDITS:] == np.float32(SUPPRESSED)]
        if edits.allowed is not None or len(banned):
            self._add_allowed(slot, edits.allowed, banned, changes)
        for name, column in (("edit_ids", ids), ("edit_values", values.view(np.int32)), ("edit_until", until)):
            changes.run(self._begins[name] + slot * MAX_EDITS, column[:MAX_EDITS])
        return min(len(ids), MAX_EDITS)

    def _add_allowed(self, slot: int, allowed: Ints | None, banned: Ints, changes: Changes) -> None:
        is_allowed = np.full(num_mask_words(self.limits.vocab_size) * 32, allowed is None)
        if allowed is not None:
            is_allowed[allowed] = True
        is_allowed[banned] = False
        words = np.packbits(is_allowed, bitorder="little").view(np.int32)
        changes.run(self._begins["allowed"] + slot * len(words), words)
        self.has_allowed[slot] = True


def _edit_columns(edits: Edits, min_tokens: int) -> tuple[Int32s, np.ndarray, Int32s]:
    """Ids ascending, what is added to their logits, and the output position at which that ends."""
    parts = (edits.biased, edits.banned, edits.ends)
    ids = np.concatenate(parts).astype(np.int32)
    counts = [len(part) for part in parts]
    values = np.concatenate((edits.biases, np.full(counts[1] + counts[2], SUPPRESSED, np.float32)))
    until = np.repeat(np.array([ALWAYS, ALWAYS, min_tokens], np.int32), counts)
    order = np.argsort(ids, kind="stable")
    return ids[order], values.astype(np.float32)[order], until[order]
