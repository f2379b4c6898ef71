"""A step on the device, from what lies there to sampled tokens: what graphs capture, or runs as it is.

In two parts, for grammars' masks may come between them. Reads and writes nothing but tensors that stay where they are,
so that it can be captured once for a shape and replayed for every step of it. Knows neither plans nor lengths.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from quire import kernels
from quire.kernels import RaggedBatch, StepTensors

from .attention_metadata import AttentionMetadata
from .kv_cache import KVCache
from .slot_lengths import Limits
from .slot_tensors import SlotTensors
from .step_columns import Columns
from .step_runner import Model


class StepShape(NamedTuple):
    """Of a step, or of what it is padded to."""

    num_tokens: int
    num_rows: int
    num_decode_rows: int
    """Of which it is known that they have one token: all, or those that come first; 0 in graphs of mixed steps."""
    num_columns: int
    """Of block tables."""
    is_sampling: bool = True
    """Whether any row may sample."""


class Results:
    """What the sampler leaves for the host, in one tensor: a token of each row, and whether it is one."""

    def __init__(self, max_rows: int, device: torch.device) -> None:
        self.words = torch.zeros(max_rows + -(-max_rows // 4), dtype=torch.int32, device=device)
        self.token_ids = self.words[:max_rows]
        """int32 [R]"""
        self.is_ok = self.words[max_rows:].view(torch.bool)[:max_rows]
        """bool [R]"""


class DeviceStep:
    """`forward` may be called for any shape up to the limits, `sample` after it."""

    def __init__(
        self,
        model: Model,
        kv_cache: KVCache,
        cos_sin: torch.Tensor,
        limits: Limits,
        slots: SlotTensors,
        columns: Columns,
    ) -> None:
        device, max_rows = cos_sin.device, len(columns.slots)
        self._model = model
        self._kv_cache = kv_cache
        self._cos_sin = cos_sin
        self._block_size = limits.block_size
        self._slots = slots
        self._columns = columns

        def ints(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.int32, device=device)

        num_tokens = limits.max_num_batched_tokens
        tables = ints(max_rows, limits.num_table_blocks)
        self._inputs = StepTensors(ints(num_tokens), ints(num_tokens), ints(num_tokens), ints(max_rows), tables)
        self._workspace = kernels.make_sampling_workspace(max_rows, limits.vocab_size, device)
        self.results = Results(max_rows, device)
        self.logits = torch.empty(max_rows, limits.vocab_size, dtype=torch.float32, device=device)
        """Raw, of the rows of the last step that could sample."""

    def forward(self, shape: StepShape) -> torch.Tensor:
        """Hidden states [num_tokens, hidden_size]; logits go to `logits`, if any row may sample."""
        columns, num_rows = self._columns, shape.num_rows
        inputs = StepTensors(
            self._inputs.input_ids[: shape.num_tokens],
            self._inputs.positions[: shape.num_tokens],
            self._inputs.slot_mapping[: shape.num_tokens],
            self._inputs.seq_lens[:num_rows],
            self._inputs.block_tables[:num_rows, : shape.num_columns],
        )
        cu_q = columns.cu_q[: num_rows + 1]
        kernels.prepare_inputs(
            columns.slots[:num_rows],
            columns.num_computed[:num_rows],
            cu_q,
            self._slots.token_ids,
            self._slots.block_tables,
            self._block_size,
            inputs,
        )
        batch = RaggedBatch.on_device(
            inputs.block_tables, cu_q, inputs.seq_lens, self._block_size, shape.num_decode_rows
        )
        metadata = AttentionMetadata(inputs.positions, inputs.slot_mapping, self._cos_sin, batch)
        hidden = self._model.forward(inputs.input_ids, metadata, self._kv_cache)
        if shape.is_sampling:
            # Of each row the last token, sampling or not: where all have one, that is all of them.
            is_whole = shape.num_tokens == num_rows == shape.num_decode_rows
            last = hidden if is_whole else hidden.index_select(0, cu_q[1:] - 1)
            # Widened by the copy: a product in float32 would be written and read once more.
            self.logits[:num_rows].copy_(self._model.compute_logits(last, last.dtype))
        return hidden

    def sample(self, num_rows: int) -> None:
        """From the logits of so many rows; tokens go to `results` and to their slots."""
        results = self.results
        slots = self._columns.sampling_slots[:num_rows]
        token_ids = results.token_ids[:num_rows]
        kernels.sample_slots(
            self.logits[:num_rows],
            slots,
            self._columns.grammar_rows[:num_rows],
            self._slots.allowed,
            self._slots.sampling,
            self._workspace,
            token_ids,
            results.is_ok[:num_rows],
        )
        # A row that samples has computed all of its tokens: the next one's place is its length.
        kernels.append_tokens(self._slots.token_ids, slots, self._inputs.seq_lens[:num_rows], token_ids)

    def remember(self, slot: int, num_tokens: int, num_prompt: int) -> None:
        """The tokens of a row that is penalised for them; they lie in its slot."""
        kernels.remember_tokens(self._slots.sampling.counts, slot, self._slots.token_ids[slot, :num_tokens], num_prompt)

    def logprobs(self, rows: torch.Tensor, num_top: int) -> tuple[torch.Tensor, ...]:
        """Of the tokens just sampled by `rows` int32 [N]; see kernels.token_logprobs."""
        token_ids = self.results.token_ids.index_select(0, rows).long()
        return kernels.token_logprobs(self.logits.index_select(0, rows), token_ids, num_top)

    def prompt_logprobs(
        self, hidden: torch.Tensor, slot: int, first: int, num_top: int, step: int
    ) -> list[tuple[torch.Tensor, ...]]:
        """Of the tokens of a slot from place `first` on, given the hidden states before them; `step` rows at once."""
        targets = self._slots.token_ids[slot, first : first + len(hidden)].long()
        return [
            kernels.token_logprobs(
                self._model.compute_logits(hidden[low : low + step]), targets[low : low + step], num_top
            )
            for low in range(0, len(hidden), step)
        ]

    def write(self, packed: torch.Tensor, segments: torch.Tensor) -> None:
        kernels.write_words(self._slots.words, packed, segments)
