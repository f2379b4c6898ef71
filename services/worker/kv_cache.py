"""The KV cache: for every layer, keys and values in blocks that any row may hold.

[num_blocks, num_kv_heads, block_size, head_dim] per layer, all layers in one tensor each for keys and values, of the
model's type or in 8-bit floats (e4m3: not scaled, saturating at 448). What is in a block before it is written is
undefined and never used.
"""

from __future__ import annotations

import msgspec
import torch

from quire import kernels
from quire.shared.model_config import ModelConfig

from .layers.placement import Placement
from .slot_lengths import Int32s


def block_bytes(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """Of one block in all layers, keys and values."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * block_size * config.head_dim * dtype.itemsize


class KVCache:
    """`layers[i]` is (keys, values) of layer i."""

    def __init__(
        self,
        config: ModelConfig,
        placement: Placement,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        """dtype: None for the model's."""
        placement = placement if dtype is None else msgspec.structs.replace(placement, dtype=dtype)
        shape = (config.num_hidden_layers, num_blocks, config.num_key_value_heads, block_size, config.head_dim)
        self.keys = placement.empty(*shape)
        self.values = placement.empty(*shape)
        self.layers = list(zip(self.keys.unbind(0), self.values.unbind(0), strict=True))

    @torch.inference_mode()
    def fill(self, blocks: list[int] | None, value: float) -> None:
        """Every element of these blocks, or of all, in every layer. Waits for all that runs on the device.

        For debugging.py.
        """
        self._await_device()
        for tensor in (self.keys, self.values):
            if blocks is None:
                tensor.fill_(value)
            else:
                tensor[:, blocks] = value
        self._await_device()

    def _await_device(self) -> None:
        if self.keys.is_cuda:
            torch.cuda.synchronize(self.keys.device)

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        """Block `to` becomes block `from` in every layer, one pair after the other."""
        kernels.copy_blocks(self.keys, pairs)
        kernels.copy_blocks(self.values, pairs)

    def copy_block_pairs(self, pairs: torch.Tensor, ends: list[int]) -> None:
        """The same of pairs int32 [P, 2] on the device, in runs that end where `ends` says (see disjoint_ends)."""
        begin = 0
        for end in ends:
            kernels.copy_block_pairs(self.keys, pairs[begin:end])
            kernels.copy_block_pairs(self.values, pairs[begin:end])
            begin = end


def disjoint_ends(pairs: Int32s) -> list[int]:
    """Where to cut pairs (from, to), to be copied one after the other, into runs that may be copied at once."""
    ends, sources, targets = [], set[int](), set[int]()
    for place, (source, target) in enumerate(pairs.tolist()):
        if source in targets or target in sources or target in targets or source == target:
            ends.append(place)
            sources, targets = set(), set()
        sources.add(source)
        targets.add(target)
    return [*ends, len(pairs)]
