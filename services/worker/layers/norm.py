"""RMSNorm with its weight, alone or after adding the residual."""

from __future__ import annotations

import torch

from quire import kernels

from .placement import Placement, Targets


class RMSNorm:
    """[..., size] -> the same; see kernels.rms_norm."""

    def __init__(self, placement: Placement, size: int, epsilon: float) -> None:
        self.weight = placement.empty(size)
        self.epsilon = epsilon

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return kernels.rms_norm(x, self.weight, self.epsilon)

    def add(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """residual += x, in place; its norm."""
        return kernels.add_rms_norm(x, residual, self.weight, self.epsilon)

    def targets(self) -> Targets:
        return {"weight": self.weight}
