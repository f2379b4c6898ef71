"""The memory plan: weights, workspace and KV cache, settled before the cache is taken.

Knows what the largest step needs at once; what does not fit is an error that names the flag to change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from msgspec import Struct

from quire.shared.messages import Configure
from quire.shared.model_config import ModelConfig

from .device_memory import Room, size_text
from .errors import DeviceError
from .kv_cache import block_bytes

_CPU_DEFAULT_BYTES = 4 << 30
"""KV cache on a CPU when no flag says: memory there is everybody's."""


class MemoryPlan(Struct, frozen=True):
    """What goes where."""

    num_blocks: int
    max_model_len: int
    parts: list[tuple[str, int]]
    """(what, bytes)"""

    def with_blocks(self, num_blocks: int, block_size: int) -> MemoryPlan:
        """The same with fewer blocks: what all ranks of a group have room for."""
        if num_blocks == self.num_blocks:
            return self
        *others, (what, size) = self.parts
        parts = [*others, (what, size // self.num_blocks * num_blocks)]
        return MemoryPlan(num_blocks, min(self.max_model_len, num_blocks * block_size), parts)


def workspace_bytes(config: ModelConfig, wanted: Configure, dtype: torch.dtype) -> int:
    """What the largest step holds beside weights and KV cache, at its worst moment."""
    num_tokens, width = wanted.max_num_batched_tokens, dtype.itemsize
    q_size = config.num_attention_heads * config.head_dim
    kv_size = 2 * config.num_key_value_heads * config.head_dim
    attention = 3 * q_size + 2 * kv_size
    mlp = 4 * config.intermediate_size
    activations = num_tokens * (3 * config.hidden_size + max(attention, mlp)) * width
    # Raw logits, their float32 copy, and what the sampler makes of them.
    logits = wanted.max_num_seqs * config.vocab_size * 4 * 3
    longest = wanted.max_model_len or config.max_model_len
    gathered = (max(longest, 32768) * kv_size + num_tokens * longest // 4) * width
    return activations + logits + gathered


def plan_memory(
    config: ModelConfig,
    wanted: Configure,
    device: torch.device,
    dtype: torch.dtype,
    weight_bytes: int,
    free_bytes: int,
    cache_dtype: torch.dtype | None = None,
    beside: Sequence[tuple[str, int]] = (),
    room: Room | None = None,
) -> MemoryPlan:
    """`free_bytes`: what can still be taken, weights being there already; `beside`: (what, bytes) that is to be there

    too; `room`: what a device has told, in place of our count of the weights, of what is free and of the workspace.
    Raises DeviceError.
    """
    if room is not None:
        weight_bytes, free_bytes = room.weights, room.free
    if wanted.max_model_len is not None and wanted.max_model_len > config.max_model_len:
        raise DeviceError(
            f"--max-model-len {wanted.max_model_len} is more than the {config.max_model_len} the checkpoint is made for"
        )
    of_block = block_bytes(config, wanted.block_size, cache_dtype or dtype)
    workspace = workspace_bytes(config, wanted, dtype) if room is None else room.workspace
    limit = int((free_bytes + weight_bytes) * wanted.memory_utilization) if room is None else room.limit
    taken = workspace + sum(size for _, size in beside)
    longest = wanted.max_model_len or config.max_model_len
    kv_bytes = _kv_bytes(wanted, device, limit - weight_bytes, taken, free_bytes)
    # One block more a row than its text takes: the step ahead may write one token beyond it.
    most = wanted.max_num_seqs * (-(-longest // wanted.block_size) + 1)
    num_blocks = kv_bytes // of_block
    if wanted.kv_cache_memory_bytes is None:
        num_blocks = min(most, num_blocks)
    least = -(-(wanted.max_model_len or 2) // wanted.block_size)
    if num_blocks < least:
        in_the_way = 0 if room is None else room.in_the_way
        raise DeviceError(_too_small(wanted, of_block * least, max(0, kv_bytes), in_the_way))
    parts = [("weights", weight_bytes), ("workspace", workspace), *beside, ("kv cache", num_blocks * of_block)]
    return MemoryPlan(num_blocks, min(longest, num_blocks * wanted.block_size), parts)


def _kv_bytes(wanted: Configure, device: torch.device, allowed: int, workspace: int, free_bytes: int) -> int:
    """allowed: beside the weights."""
    if wanted.kv_cache_memory_bytes is not None:
        if wanted.kv_cache_memory_bytes + workspace > free_bytes:
            raise DeviceError(
                f"--kv-cache-memory {size_text(wanted.kv_cache_memory_bytes)} and a workspace of {size_text(workspace)}"
                f" do not fit into the {size_text(free_bytes)} that are free: lower --kv-cache-memory"
            )
        return wanted.kv_cache_memory_bytes
    budget = allowed - workspace
    return min(budget, _CPU_DEFAULT_BYTES) if device.type == "cpu" else budget


def _too_small(wanted: Configure, needed: int, kv_bytes: int, in_the_way: int) -> str:
    what = "two tokens need" if wanted.max_model_len is None else f"--max-model-len {wanted.max_model_len} needs"
    remedy = "" if wanted.max_model_len is None else "lower --max-model-len or "
    flag = "--memory-utilization" if wanted.kv_cache_memory_bytes is None else "--kv-cache-memory"
    if wanted.kv_cache_memory_bytes is None and kv_bytes == _CPU_DEFAULT_BYTES:
        flag = "--kv-cache-memory"
    if in_the_way and wanted.kv_cache_memory_bytes is None:
        others = f"other processes hold {size_text(in_the_way)} of the GPU: end some of them"
        remedy = f"{others}, or lower --max-num-batched-tokens" + ("" if not remedy else " or --max-model-len")
        return f"{what} {size_text(needed)} of KV cache, but there are {size_text(kv_bytes)}, and {remedy}"
    return f"{what} {size_text(needed)} of KV cache, but there are {size_text(kv_bytes)}: {remedy}raise {flag}"
