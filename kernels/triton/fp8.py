"""Linear layers on 8-bit floats (e4m3), with the products of torch where the device has them.

Weights are scaled by output channel, activations by row. Below capability 8.9 there is no e4m3 in
hardware: weights stay packed in memory and are written out for each product.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from ..cpu import fp8 as specification
from ..cpu.fp8 import E4M3, Fp8Weight
from .launch import Dims, Launch, next_power_of_2

__all__ = ["E4M3", "Fp8Weight", "has_fp8", "linear_fp8", "linear_quantized", "pack_fp8", "quantize_rows", "quantized"]

_LARGEST = tl.constexpr(448.0)
_WIDEST = 8192
_ALIGNMENT = 16
"""Rows and columns of a weight must be multiples of it for the fused product."""


@triton.jit
def quantized(values, largest):
    """(values in units of the scale, the scale), both float32: `largest` of the row becomes 448."""
    scale = tl.where(largest == 0.0, 1.0, largest / _LARGEST)
    return values / scale, scale


@triton.jit
def _quantize_rows(x, x_stride, out, scales, width, IS_WHOLE: tl.constexpr, BLOCK: tl.constexpr):
    """Grid: rows. A row that is wider than the tile is read twice."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    x += row * x_stride
    out += row * width
    if IS_WHOLE:
        values = tl.load(x + columns, mask=columns < width, other=0.0).to(tl.float32)
        values, scale = quantized(values, tl.max(tl.abs(values), axis=0))  # pyright: ignore[reportGeneralTypeIssues]
        tl.store(out + columns, values.to(out.dtype.element_ty), mask=columns < width)
        tl.store(scales + row, scale)
    else:
        seen = tl.zeros([BLOCK], tl.float32)
        for start in range(0, width, BLOCK):
            at = start + columns
            seen = tl.maximum(seen, tl.abs(tl.load(x + at, mask=at < width, other=0.0).to(tl.float32)))
        largest = tl.max(seen, axis=0)
        for start in range(0, width, BLOCK):
            at = start + columns
            values, scale = quantized(tl.load(x + at, mask=at < width, other=0.0).to(tl.float32), largest)
            tl.store(out + at, values.to(out.dtype.element_ty), mask=at < width)
            tl.store(scales + row, scale)


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, H] as (e4m3 [T, H], scales float32 [T])."""
    x = x if x.stride(1) == 1 else x.contiguous()
    num_rows, width = x.shape
    out = torch.empty(num_rows, width, dtype=E4M3, device=x.device)
    scales = torch.empty(num_rows, dtype=torch.float32, device=x.device)
    launch = _launch(x, out, scales)
    if num_rows:
        launch.run()
    return out, scales


def _launch(x: torch.Tensor, out: torch.Tensor, scales: torch.Tensor) -> Launch:
    num_rows, width = x.shape
    block = min(next_power_of_2(width), _WIDEST)
    return Launch(
        _quantize_rows,
        (num_rows,),
        (x, x.stride(0), out, scales, width),
        {"IS_WHOLE": width <= block, "BLOCK": block},
        num_warps=4 if block <= 1024 else 8 if block <= 4096 else 16,
        expects=("wide loads",) if width % 16 == 0 and block >= 1024 else (),
    )


def launches(dims: Dims) -> list[Launch]:
    if not dims.is_fp8:
        return []
    # What comes from the attention; norms and activations quantise what they write.
    x = torch.empty(2, dims.num_heads * dims.head_dim, dtype=dims.dtype, device="meta")
    return [_launch(x, x.to(E4M3), x[:, 0].float())]


def has_fp8(device: torch.device) -> bool:
    """Whether a device multiplies e4m3 numbers itself."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 9)


def pack_fp8(weight: torch.Tensor) -> Fp8Weight:
    """A weight [out, in] for `linear_fp8`."""
    return Fp8Weight(*quantize_rows(weight)) if has_fp8(weight.device) else specification.pack_fp8(weight)


def linear_fp8(x: torch.Tensor, packed: Fp8Weight, bias: torch.Tensor | None) -> torch.Tensor:
    """x [T, in] @ weight^T + bias [out] of x's type; x is quantised by row on the way."""
    if has_fp8(x.device):
        return linear_quantized(*quantize_rows(x), packed, bias, x.dtype)
    return specification.linear_fp8(x, packed, bias)


def linear_quantized(
    x: torch.Tensor, scales: torch.Tensor, packed: Fp8Weight, bias: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """As linear_fp8, of activations that a norm or an activation has already quantised. Returns [T, out]."""
    rows, columns = packed.weight.shape
    if rows % _ALIGNMENT or columns % _ALIGNMENT or not len(x) or not has_fp8(x.device):
        return specification.linear_quantized(x, scales, packed, bias, dtype)
    # Scales by row need a bfloat16 result; other types are rounded to it on the way.
    product = torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
        x,
        packed.weight.t(),
        scale_a=scales[:, None],
        scale_b=packed.scales[None, :],
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )
    product = product if dtype == torch.bfloat16 else product.to(dtype)
    return product if bias is None else product.add_(bias)
