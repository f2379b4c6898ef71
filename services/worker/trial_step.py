"""Steps of the largest shapes that a configuration allows, run once to see what memory they take.

Contexts of all rows lie in one and the same block: the KV cache is not there yet, and what is computed does not
matter. Knows no plans; device_memory.py reads the device before and after.
"""

from __future__ import annotations

import numpy as np
import torch
from msgspec import Struct

from quire import kernels
from quire.shared.messages import Configure
from quire.shared.model_config import ModelConfig

from .attention_metadata import to_device
from .batch_state import StepInputs
from .kv_cache import KVCache
from .layers.placement import Placement
from .layers.rotary import cos_sin_table
from .models.decoder import Decoder

_NUM_LIKELIEST = 20


class Shape(Struct, frozen=True):
    """A step of rows that are all alike."""

    num_rows: int
    num_scheduled: int
    """Of each row."""
    seq_len: int


def largest_shapes(config: ModelConfig, wanted: Configure) -> list[Shape]:
    """The budget as whole prompts, as the end of the longest context, and divided among all rows; all rows decoding."""
    longest = min(wanted.max_model_len or config.max_model_len, config.max_model_len)
    budget = wanted.max_num_batched_tokens
    rows = min(wanted.max_num_seqs, budget)
    of_prompt = min(budget, longest)
    of_many = max(1, min(budget // rows, longest))
    shapes = [
        Shape(-(-budget // of_prompt), of_prompt, of_prompt),
        Shape(1, of_prompt, longest),
        Shape(rows, of_many, of_many),
        Shape(rows, 1, longest),
    ]
    return list(dict.fromkeys(shapes))


def inputs_of(shape: Shape, block_size: int) -> StepInputs:
    """Every row in block 0, however long."""
    scheduled, num_rows = shape.num_scheduled, shape.num_rows
    positions = np.tile(np.arange(shape.seq_len - scheduled, shape.seq_len, dtype=np.int32), num_rows)
    rows = np.arange(num_rows, dtype=np.int32)
    return StepInputs(
        slots=rows,
        input_ids=np.zeros(num_rows * scheduled, np.int32),
        positions=positions,
        slot_mapping=positions % block_size,
        cu_q=np.arange(num_rows + 1, dtype=np.int32) * scheduled,
        seq_lens=np.full(num_rows, shape.seq_len, np.int32),
        block_tables=np.zeros((num_rows, -(-shape.seq_len // block_size)), np.int32),
        sampling_rows=rows,
    )


class TrialSteps:
    """Where a step's memory depends on lengths: what measure_room tries, without graphs."""

    named_bytes = 0

    def __init__(
        self, model: Decoder, config: ModelConfig, placement: Placement, cache_dtype: torch.dtype, wanted: Configure
    ) -> None:
        self._given = (model, config, placement, cache_dtype, wanted)

    def steps(self) -> None:
        run_trial(*self._given)

    def some_graphs(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        pass


@torch.inference_mode()
def run_trial(
    model: Decoder, config: ModelConfig, placement: Placement, cache_dtype: torch.dtype, wanted: Configure
) -> None:
    """Each of the largest shapes once, with its logits and a sampler's work on all rows."""
    cache = KVCache(config, placement, 1, wanted.block_size, cache_dtype)
    # What was never written may be NaN, and of such logits nothing can be drawn.
    cache.fill(None, 0.0)
    shapes = largest_shapes(config, wanted)
    cos_sin = cos_sin_table(config, max(shape.seq_len for shape in shapes), placement.device)
    for shape in shapes:
        on_device = to_device(inputs_of(shape, wanted.block_size), cos_sin, wanted.block_size)
        hidden = model.forward(on_device.input_ids, on_device.metadata, cache)
        _sample(model.compute_logits(hidden.index_select(0, on_device.sampling_tokens)[: wanted.max_num_seqs]))


def _sample(logits: torch.Tensor) -> None:
    """What the most demanding rows ask for: a draw among the likeliest, and the logprobs of those.

    Not by top_p: of random weights, whose tokens are all as likely, that would be a long search on the host.
    """
    num_rows, vocab_size = logits.shape
    raw = logits.clone()
    ones = torch.ones(num_rows, device=logits.device)
    top_k = torch.full((num_rows,), _NUM_LIKELIEST, dtype=torch.int64, device=logits.device)
    uniforms = torch.full((num_rows,), 0.5, dtype=torch.float64, device=logits.device)
    token_ids = kernels.sample(logits, ones, top_k, ones, ones * 0.0, uniforms)
    kernels.token_logprobs(raw, token_ids, min(_NUM_LIKELIEST, vocab_size))
