"""Linear layers, several of a checkpoint's merged into one where they read the same input."""

from __future__ import annotations

from typing import TypeAlias

import torch

from quire import kernels

from .placement import Placement, Targets, unpacked

Activations: TypeAlias = torch.Tensor | kernels.QuantizedRows
"""What a linear layer reads [T, in]; the second where it is packed to fp8."""


class Linear:
    """x [T, in] -> [T, sum of out_sizes]; `out_sizes` are by the checkpoint's names, in the order of the result.

    Of several ranks, sizes are this one's. is_sum: each rank has a part of the inputs, and results are summed.
    """

    def __init__(
        self, placement: Placement, in_size: int, out_sizes: dict[str, int], has_bias: bool, is_sum: bool = False
    ) -> None:
        self._out_sizes = out_sizes
        self._sum_over = placement.group if is_sum and placement.group.size > 1 else None
        self.weight: torch.Tensor | kernels.PackedWeight = placement.reserve(sum(out_sizes.values()), in_size)
        self.bias = placement.empty(sum(out_sizes.values())) if has_bias else None

    def __call__(self, x: Activations) -> torch.Tensor:
        if self._sum_over is None:
            return kernels.linear(x, self.weight, self.bias)
        summed = self._sum_over.all_reduce(kernels.linear(x, self.weight, None))
        # Once, not by each rank.
        return summed if self.bias is None else summed.add_(self.bias)

    def pack(self, choice: kernels.LinearChoice) -> None:
        """After loading: give the weight the layout that its product wants. `targets` are no longer."""
        self.weight = choice.pack(unpacked(self.weight))

    def targets(self) -> Targets:
        weight = unpacked(self.weight)
        found: Targets = {}
        start = 0
        for name, size in self._out_sizes.items():
            found[f"{name}.weight"] = weight[start : start + size]
            if self.bias is not None:
                found[f"{name}.bias"] = self.bias[start : start + size]
            start += size
        return found
