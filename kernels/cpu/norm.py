"""RMSNorm (Zhang and Sennrich 2019), alone and with the residual addition before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .fp8 import quantize_rows


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, epsilon)


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    residual.add_(x)
    return F.rms_norm(residual, (x.shape[-1],), weight, epsilon)


def rms_norm_fp8(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    return quantize_rows(rms_norm(x, weight, epsilon))


def add_rms_norm_fp8(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    return quantize_rows(add_rms_norm(x, residual, weight, epsilon))
