"""The gated activations of an MLP: act(gate) * up."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .fp8 import quantize_rows


def gated_activation(x: torch.Tensor, activation: str) -> torch.Tensor:
    gate, up = x.chunk(2, dim=-1)
    if activation == "silu":
        return F.silu(gate).mul_(up)
    if activation == "gelu":
        return F.gelu(gate).mul_(up)
    if activation in ("gelu_pytorch_tanh", "gelu_new"):
        return F.gelu(gate, approximate="tanh").mul_(up)
    raise ValueError(f"unknown activation {activation!r}")


def gated_activation_fp8(x: torch.Tensor, activation: str) -> tuple[torch.Tensor, torch.Tensor]:
    return quantize_rows(gated_activation(x, activation))
