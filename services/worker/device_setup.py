"""What a device runner takes beside weights and KV cache, and how one is made: with graphs, or without.

Between model_runner.py and device_runner.py.
"""

from __future__ import annotations

import logging

import torch

from quire.shared.messages import Configure
from quire.shared.model_config import ModelConfig

from .cuda_graphs import CudaGraphs, GraphMaker, RerunGraphs, Sizes, StepGraphs, reserved_bytes, sizes_for
from .device_runner import DeviceRunner, Streams
from .device_stream import DeviceStream, current_stream, side_stream
from .kv_cache import KVCache
from .slot_lengths import Limits
from .slot_tensors import slot_bytes
from .step_runner import Model

logger = logging.getLogger("quire.worker")


def is_device_runner(wanted: str, device: torch.device) -> bool:
    """`wanted` auto | host | device."""
    return wanted == "device" or (wanted == "auto" and device.type != "cpu")


def reserved_parts(
    config: ModelConfig, wanted: Configure, dtype: torch.dtype, has_graphs: bool
) -> list[tuple[str, int]]:
    """(what, bytes), for the memory plan, of the longest texts that a model may be configured for."""
    limits = Limits(
        max_num_seqs=wanted.max_num_seqs,
        max_num_batched_tokens=wanted.max_num_batched_tokens,
        max_model_len=wanted.max_model_len or config.max_model_len,
        block_size=wanted.block_size,
        num_blocks=0,
        vocab_size=config.vocab_size,
    )
    parts = [("batch", slot_bytes(limits))]
    if has_graphs:
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
    device = cos_sin.device
    compute = _take_stream(device)
    runner = DeviceRunner(
        model, kv_cache, cos_sin, limits, eos_token_ids, Streams(compute=compute, results=side_stream(device))
    )
    runner.warm_up()
    if has_graphs:
        maker = maker or (CudaGraphs(device) if device.type == "cuda" else RerunGraphs())
        runner.capture(StepGraphs(_sizes(limits)), maker)
    return runner


def _take_stream(device: torch.device) -> DeviceStream:
    """A stream of its own, which a GPU's graphs need, and the calling thread's from now on: it does nothing beside."""
    if device.type == "cuda":
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        torch.cuda.set_stream(stream)
    return current_stream(device)


def _sizes(limits: Limits) -> Sizes:
    max_rows = min(limits.max_num_seqs, limits.max_num_batched_tokens)
    return sizes_for(max_rows, limits.max_num_batched_tokens, limits.num_table_blocks)
