"""Where a model's tensors are made, and where the loader puts what it reads."""

from __future__ import annotations

from typing import TypeAlias

import torch
from msgspec import Struct

from quire import kernels

from ..tensor_parallel import ALONE, RankGroup

Targets: TypeAlias = dict[str, torch.Tensor]
"""Checkpoint name -> the tensor (often a part of a merged one) that takes it."""


class Placement(Struct, frozen=True):
    """Device and type of weights and activations, and which rank of the group holds them."""

    device: torch.device
    dtype: torch.dtype
    group: RankGroup = ALONE
    is_deferred: bool = False
    """Whether `reserve` takes no memory yet."""

    def reserve(self, *shape: int) -> torch.Tensor:
        """A weight that will be packed: where is_deferred, on the meta device until Packing.settle takes its memory.

        On a GPU a weight that is quantised on the way would else be there twice; on a CPU untouched pages cost nothing.
        """
        if self.is_deferred:
            return torch.empty(shape, device="meta", dtype=self.dtype)
        return self.empty(*shape)

    def empty(self, *shape: int) -> torch.Tensor:
        if self.device.type == "cpu":
            return kernels.empty_weight(shape, self.dtype)
        return torch.empty(shape, device=self.device, dtype=self.dtype)


def prefixed(prefix: str, *parts: tuple[str, Targets]) -> Targets:
    """The targets of several layers under one prefix: ("self_attn", {...}) -> prefix.self_attn. ..."""
    return {f"{prefix}.{name}.{key}": tensor for name, targets in parts for key, tensor in targets.items()}


def unpacked(weight: torch.Tensor | kernels.PackedWeight) -> torch.Tensor:
    """A weight as it was loaded. Raises TypeError once it has been packed."""
    if not isinstance(weight, torch.Tensor):
        raise TypeError("the weight is packed already")
    return weight
