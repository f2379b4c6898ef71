"""The gated activations of an MLP, act(gate) * up, and the same with a quantised result.

The plain form cuts a row into tiles; the quantised one gives a program the whole row, since its scale
needs the largest of it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .fp8 import E4M3, quantized
from .launch import Dims, Launch, ceil_div, next_power_of_2

_SILU, _GELU, _GELU_TANH = 0, 1, 2
_KINDS = {"silu": _SILU, "gelu": _GELU, "gelu_pytorch_tanh": _GELU_TANH, "gelu_new": _GELU_TANH}
_TILE = 1024
_WIDEST = 16384
"""What a program of the quantised form holds at once."""


@triton.jit
def _gated(x, columns, is_in, width, KIND: tl.constexpr):
    """act(gate) * up in float32, at columns of a row x of 2 * width."""
    gate = tl.load(x + columns, mask=is_in, other=0.0).to(tl.float32)
    up = tl.load(x + width + columns, mask=is_in, other=0.0).to(tl.float32)
    if KIND == 0:
        return gate * tl.sigmoid(gate) * up
    elif KIND == 1:
        return 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)) * up
    else:
        # (1 + tanh(a)) / 2 is sigmoid(2 a).
        inner = 0.7978845608028654 * (gate + 0.044715 * gate * gate * gate)
        return gate * tl.sigmoid(2.0 * inner) * up


@triton.jit
def _gated_activation(x, x_stride, out, width, KIND: tl.constexpr, BLOCK: tl.constexpr):
    """Grid: rows, tiles of a row."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    is_in = columns < width
    values = _gated(x + row * x_stride, columns, is_in, width, KIND)
    tl.store(out + row * width + columns, values.to(out.dtype.element_ty), mask=is_in)


@triton.jit
def _gated_activation_fp8(
    x, x_stride, out, scales, width, KIND: tl.constexpr, IS_WHOLE: tl.constexpr, BLOCK: tl.constexpr
):
    """Grid: rows. A row that is wider than the tile is computed twice: for its largest, and to be written."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    x += row * x_stride
    out += row * width
    if IS_WHOLE:
        is_in = columns < width
        values = _gated(x, columns, is_in, width, KIND)
        values, scale = quantized(values, tl.max(tl.abs(values), axis=0))
        tl.store(out + columns, values.to(out.dtype.element_ty), mask=is_in)
        tl.store(scales + row, scale)
    else:
        seen = tl.zeros([BLOCK], tl.float32)
        for start in range(0, width, BLOCK):
            at = start + columns
            seen = tl.maximum(seen, tl.abs(_gated(x, at, at < width, width, KIND)))
        largest = tl.max(seen, axis=0)
        for start in range(0, width, BLOCK):
            at = start + columns
            values, scale = quantized(_gated(x, at, at < width, width, KIND), largest)
            tl.store(out + at, values.to(out.dtype.element_ty), mask=at < width)
            tl.store(scales + row, scale)


def gated_activation(x: torch.Tensor, activation: str) -> torch.Tensor:
    x = _rows(x)
    out = torch.empty(x.shape[0], x.shape[1] // 2, dtype=x.dtype, device=x.device)
    launch = _launch(x, activation, out)
    if x.shape[0]:
        launch.run()
    return out


def gated_activation_fp8(x: torch.Tensor, activation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """gated_activation of x [T, 2 I] as (e4m3 [T, I], scales float32 [T])."""
    x = _rows(x)
    out = torch.empty(x.shape[0], x.shape[1] // 2, dtype=E4M3, device=x.device)
    scales = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    launch = _launch_fp8(x, activation, out, scales)
    if x.shape[0]:
        launch.run()
    return out, scales


def _kind(activation: str) -> int:
    if activation not in _KINDS:
        raise ValueError(f"unknown activation {activation!r}")
    return _KINDS[activation]


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


def _launch(x: torch.Tensor, activation: str, out: torch.Tensor) -> Launch:
    num_rows, width = out.shape
    return Launch(
        _gated_activation,
        (num_rows, ceil_div(width, _TILE)),
        (x, x.stride(0), out, width),
        {"KIND": _kind(activation), "BLOCK": _TILE},
        expects=("wide loads",) if width % 16 == 0 else (),
    )


def _launch_fp8(x: torch.Tensor, activation: str, out: torch.Tensor, scales: torch.Tensor) -> Launch:
    num_rows, width = out.shape
    block = min(next_power_of_2(width), _WIDEST)
    return Launch(
        _gated_activation_fp8,
        (num_rows,),
        (x, x.stride(0), out, scales, width),
        {"KIND": _kind(activation), "IS_WHOLE": width <= block, "BLOCK": block},
        num_warps=4 if block <= 1024 else 8 if block <= 4096 else 16,
        expects=("wide loads",) if width % 16 == 0 and block >= 1024 else (),
    )


def launches(dims: Dims) -> list[Launch]:
    x = torch.empty(2, 2 * dims.intermediate_size, dtype=dims.dtype, device="meta")
    out = x[:, : dims.intermediate_size]
    found = [_launch(x, dims.activation, out)]
    if dims.is_fp8:
        found.append(_launch_fp8(x, dims.activation, out.to(E4M3), out[:, 0].float()))
    return found
