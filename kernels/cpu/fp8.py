"""Linear layers on 8-bit floats (e4m3): weights scaled by output channel, activations by row as they come.

The specification of triton/fp8.py, and what a device without fp8 products computes with: numbers are
quantised the same, products are of the numbers written out again.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest e4m3 number."""
_ROWS_AT_ONCE = 1024
"""Of a weight that is packed: in float32 a whole head would take much memory."""


class QuantizedRows(NamedTuple):
    """Activations on their way to fp8 linears; what comes of those is of `dtype`."""

    numbers: torch.Tensor
    """e4m3 [T, H]"""
    scales: torch.Tensor
    """float32 [T]: a row is numbers * scale."""
    dtype: torch.dtype


class Fp8Weight(NamedTuple):
    weight: torch.Tensor
    """e4m3 [out, in]"""
    scales: torch.Tensor
    """float32 [out]: the weight is weight * scales."""


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, H] as (e4m3 [T, H], scales float32 [T]): the largest of a row becomes 448. A row of zeros has scale 1.

    A row with an infinity or a NaN stays one that is not finite.
    """
    values = x.float()
    largest = values.abs().amax(dim=-1) if x.shape[-1] else values.new_zeros(x.shape[0])
    scales = torch.where(largest == 0, 1.0, largest / LARGEST)
    return (values / scales[:, None]).to(E4M3), scales


def pack_fp8(weight: torch.Tensor) -> Fp8Weight:
    """A weight [out, in] for `linear_fp8`; half its memory, or a quarter."""
    parts = [quantize_rows(part) for part in weight.split(_ROWS_AT_ONCE)]
    return Fp8Weight(torch.cat([numbers for numbers, _ in parts]), torch.cat([scales for _, scales in parts]))


def linear_fp8(x: torch.Tensor, packed: Fp8Weight, bias: torch.Tensor | None) -> torch.Tensor:
    """x [T, in] @ weight^T + bias [out]. Returns [T, out] of x's type."""
    return linear_quantized(*quantize_rows(x), packed, bias, x.dtype)


def linear_quantized(
    x: torch.Tensor, scales: torch.Tensor, packed: Fp8Weight, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """As linear_fp8, of activations that are already e4m3 [T, in] with scales [T]. Returns [T, out] of `dtype`."""
    # Scales come after the product, as in a fused one; sums of unscaled numbers would overflow float16.
    exact = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    product = F.linear(x.to(exact), packed.weight.to(exact)).float()
    product = product * scales[:, None] * packed.scales
    return (product if bias is None else product + bias.float()).to(dtype)
