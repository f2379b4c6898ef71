"""What a device runner takes beside weights and KV cache, and how one is made: with graphs, or without.

Between model_runner.py and device_runner.py; a Rehearsal is one that is made to see what it takes.
"""

from __future__ import annotations

import logging
from functools import cache

import torch

from quire.shared.messages import Configure
from quire.shared.model_config import ModelConfig

from .cuda_graphs import CudaGraphs, GraphMaker, RerunGraphs, Sizes, StepGraphs, reserved_bytes, sizes_for
from .device_memory import Room
from .device_runner import DeviceRunner, Streams
from .device_stream import DeviceStream, current_stream, side_stream
from .kv_cache import KVCache
from .layers.placement import Placement
from .layers.rotary import cos_sin_table
from .models.decoder import Decoder
from .slot_lengths import Limits
from .slot_tensors import slot_bytes
from .step_runner import Model

logger = logging.getLogger("quire.worker")

_TRIED_GRAPHS = 2
"""Of decode steps, and as many of mixed ones, that a rehearsal captures."""


def is_device_runner(wanted: str, device: torch.device) -> bool:
    """`wanted` auto | host | device."""
    return wanted == "device" or (wanted == "auto" and device.type != "cpu")


def limits_of(config: ModelConfig, wanted: Configure, num_blocks: int) -> Limits:
    """Of the longest texts that a model may be configured for."""
    return Limits(
        max_num_seqs=wanted.max_num_seqs,
        max_num_batched_tokens=wanted.max_num_batched_tokens,
        max_model_len=wanted.max_model_len or config.max_model_len,
        block_size=wanted.block_size,
        num_blocks=num_blocks,
        vocab_size=config.vocab_size,
    )


def reserved_parts(
    config: ModelConfig, wanted: Configure, dtype: torch.dtype, has_graphs: bool, room: Room | None = None
) -> list[tuple[str, int]]:
    """(what, bytes) for the memory plan; of graphs what a device has told of them, or a reckoning without `room`."""
    limits = limits_of(config, wanted, 0)
    parts = [("batch", slot_bytes(limits))]
    if has_graphs and room is not None:
        parts.append(("graphs", room.graphs))
    elif has_graphs:
        q_size = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
        widest = max(2 * q_size, 3 * config.intermediate_size) + 3 * config.hidden_size
        parts.append(("graphs", reserved_bytes(_sizes(limits), widest * dtype.itemsize)))
    return parts


def make_device_runner(
    model: Model,
    kv_cache: KVCache,
    cos_sin: torch.Tensor,
    limits: Limits,
    eos_token_ids: list[int],
    has_graphs: bool,
    maker: GraphMaker | None = None,
) -> DeviceRunner:
    """Warmed up, its graphs captured (by `maker`, if one is given) unless has_graphs is False."""
    runner = _warm_runner(model, kv_cache, cos_sin, limits, eos_token_ids)
    if has_graphs:
        runner.capture(StepGraphs(_sizes(limits)), maker or _maker(cos_sin.device))
    return runner


class Rehearsal:
    """A device runner in a cache of one block, with the largest of its graphs: what measure_room tries."""

    def __init__(self, model: Decoder, placement: Placement, cache_dtype: torch.dtype, wanted: Configure,
                 has_graphs: bool) -> None:  # fmt: skip
        self._given = (model, placement, cache_dtype, wanted.block_size)
        self._has_graphs = has_graphs
        self._limits = limits_of(model.config, wanted, 1)
        self._runner: DeviceRunner | None = None
        self.named_bytes = slot_bytes(self._limits)

    def steps(self) -> None:
        model, placement, cache_dtype, block_size = self._given
        limits = self._limits
        with torch.inference_mode():
            kv_cache = KVCache(model.config, placement, limits.num_blocks, block_size, cache_dtype)
            cos_sin = cos_sin_table(model.config, limits.max_model_len + 2, placement.device)
        self._runner = _warm_runner(model, kv_cache, cos_sin, limits, [])

    def some_graphs(self) -> tuple[int, int]:
        if self._runner is None or not self._has_graphs:
            return 0, 0
        sizes = _sizes(self._limits)
        some = sizes._replace(decode=sizes.decode[-_TRIED_GRAPHS:], mixed=sizes.mixed[-_TRIED_GRAPHS:])
        self._runner.capture(StepGraphs(some), _maker(self._given[1].device))
        return some.num_graphs, sizes.num_graphs

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
        self._runner = None


def _warm_runner(
    model: Model, kv_cache: KVCache, cos_sin: torch.Tensor, limits: Limits, eos_token_ids: list[int]
) -> DeviceRunner:
    compute = _take_stream(cos_sin.device)
    streams = Streams(compute=compute, results=side_stream(cos_sin.device))
    runner = DeviceRunner(model, kv_cache, cos_sin, limits, eos_token_ids, streams)
    runner.warm_up()
    return runner


def _maker(device: torch.device) -> GraphMaker:
    return CudaGraphs(device) if device.type == "cuda" else RerunGraphs()


def _take_stream(device: torch.device) -> DeviceStream:
    """A stream of its own, which a GPU's graphs need, and the calling thread's from now on: it does nothing beside."""
    if device.type == "cuda":
        stream = _stream_of_steps(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        torch.cuda.set_stream(stream)
    return current_stream(device)


@cache
def _stream_of_steps(device: torch.device) -> torch.cuda.Stream:
    """One for all configurations: torch keeps a workspace of cuBLAS for each stream that it has multiplied on."""
    return torch.cuda.Stream(device)


def _sizes(limits: Limits) -> Sizes:
    max_rows = min(limits.max_num_seqs, limits.max_num_batched_tokens)
    return sizes_for(max_rows, limits.max_num_batched_tokens, limits.num_table_blocks)
