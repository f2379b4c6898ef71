"""What a device keeps of each slot: token ids, block table and sampling parameters, in one tensor of words.

One, so that all of a step's changes are written by a single launch, each named by its place among the words.
Owned by device_runner.py; device_slots.py says what is written where.
"""

from __future__ import annotations

import torch
from msgspec import Struct

from quire.kernels import SlotState, TokenCounts, num_mask_words

from .errors import DeviceError
from .slot_lengths import Limits

MAX_EDITS = 2112
"""Of a slot: as many biases and stop tokens as a request may name, and some ends of the model's own."""
_ALIGNMENT = 16
"""Words: kernels are compiled for tensors that begin at multiples of 16 bytes, as an allocator's do."""


class Places(Struct, frozen=True):
    """Where each tensor begins among the words, and of how many it is."""

    begins: dict[str, int]
    num_words: int


def places_of(limits: Limits) -> Places:
    """Raises DeviceError where a place would not fit into 32 bits."""
    slots = limits.max_num_seqs
    sizes = {
        "token_ids": slots * limits.num_ids,
        "block_tables": slots * limits.num_table_blocks,
        "seed": 2 * slots,
        **dict.fromkeys(("edit_ids", "edit_values", "edit_until"), slots * MAX_EDITS),
        "allowed": 2 * slots * num_mask_words(limits.vocab_size),
    }
    columns = ("temperature", "top_p", "min_p", "repetition", "frequency", "presence", "top_k", "num_outputs")
    sizes.update(dict.fromkeys((*columns, "num_edits"), slots))
    begins, end = {}, 0
    for name, size in sizes.items():
        begins[name] = end
        end += -(-size // _ALIGNMENT) * _ALIGNMENT
    if end >= 1 << 31:
        raise DeviceError(
            f"{slots} rows of {limits.max_model_len} tokens are more than the device's batch can hold:"
            " lower --max-num-seqs or --max-model-len"
        )
    return Places(begins, end)


def slot_bytes(limits: Limits) -> int:
    """What SlotTensors takes."""
    counts = limits.max_num_seqs * (limits.vocab_size + num_mask_words(limits.vocab_size))
    return 4 * (places_of(limits).num_words + counts)


class SlotTensors:
    """Views of `words`; see kernels.SlotState for `sampling`."""

    def __init__(self, limits: Limits, device: torch.device) -> None:
        slots, vocab_size = limits.max_num_seqs, limits.vocab_size
        self.places = places_of(limits)
        self.words = torch.zeros(self.places.num_words, dtype=torch.int32, device=device)
        mask_words = num_mask_words(vocab_size)
        self.token_ids = self._view("token_ids", slots, limits.num_ids)
        self.block_tables = self._view("block_tables", slots, limits.num_table_blocks)
        self.allowed = self._view("allowed", 2 * slots, mask_words)
        """Bits of the tokens that may be drawn: by each slot that names them, then as the masks of a step say."""
        self.sampling = SlotState(
            temperature=self._column("temperature", torch.float32, slots),
            top_k=self._column("top_k", torch.int32, slots),
            top_p=self._column("top_p", torch.float32, slots),
            min_p=self._column("min_p", torch.float32, slots),
            repetition=self._column("repetition", torch.float32, slots),
            frequency=self._column("frequency", torch.float32, slots),
            presence=self._column("presence", torch.float32, slots),
            seed=self._column("seed", torch.int64, 2 * slots),
            num_outputs=self._column("num_outputs", torch.int32, slots),
            num_edits=self._column("num_edits", torch.int32, slots),
            edit_ids=self._view("edit_ids", slots, MAX_EDITS),
            edit_values=self._view("edit_values", slots, MAX_EDITS).view(torch.float32),
            edit_until=self._view("edit_until", slots, MAX_EDITS),
            counts=TokenCounts(
                torch.zeros(slots, vocab_size, dtype=torch.int32, device=device),
                torch.zeros(slots, mask_words, dtype=torch.int32, device=device),
            ),
        )

    def _view(self, name: str, num_rows: int, num_columns: int) -> torch.Tensor:
        begin = self.places.begins[name]
        return self.words[begin : begin + num_rows * num_columns].view(num_rows, num_columns)

    def _column(self, name: str, dtype: torch.dtype, num_words: int) -> torch.Tensor:
        begin = self.places.begins[name]
        return self.words[begin : begin + num_words].view(dtype)
