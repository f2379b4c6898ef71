"""RMSNorm with its weight, alone or after adding the residual."""

from __future__ import annotations

import torch

from quire import kernels

from .linear import Activations
from .placement import Placement, Targets


class RMSNorm:
    """[..., size] -> the same; see kernels.rms_norm. is_fp8: what comes is for fp8 linears."""

    def __init__(self, placement: Placement, size: int, epsilon: float) -> None:
        self.weight = placement.empty(size)
        self.epsilon = epsilon
        self.is_fp8 = False

    def __call__(self, x: torch.Tensor) -> Activations:
        if self.is_fp8:
            return kernels.rms_norm_fp8(x, self.weight, self.epsilon)
        return kernels.rms_norm(x, self.weight, self.epsilon)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> Activations:
        """residual += x, in place; its norm."""
        if self.is_fp8:
            return kernels.add_rms_norm_fp8(x, residual, self.weight, self.epsilon)
        return kernels.add_rms_norm(x, residual, self.weight, self.epsilon)

    def targets(self) -> Targets:
        return {"weight": self.weight}
