"""RMSNorm, alone and with the residual addition before it, and the same with a quantised result.

A program takes a few whole rows when they fit its tile, and goes over one row in steps when not.
The quantised forms feed fp8 linears: they spare a launch and a trip of the row through memory.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .fp8 import E4M3, quantized
from .launch import Dims, Launch, ceil_div, next_power_of_2

_WIDEST = 8192
"""What a program holds at once."""


@triton.jit(do_not_specialize=["num_rows"])
def _rms_norm(
    x,
    x_stride,
    residual,
    residual_stride,
    weight,
    out,
    out_stride,
    scales,
    num_rows,
    width,
    epsilon,
    HAS_RESIDUAL: tl.constexpr,
    IS_QUANTIZED: tl.constexpr,
    IS_WHOLE: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """out[r] = rms_norm of x[r], or of residual[r] after x[r] has been added to it. Grid: ceil(num_rows / ROWS)."""
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS))[:, None].to(tl.int64)
    is_row = row < num_rows
    columns = tl.arange(0, BLOCK)[None, :]
    x += row * x_stride
    residual += row * residual_stride
    out += row * out_stride
    if IS_WHOLE:
        is_in = is_row & (columns < width)
        values = _summand(x, residual, columns, is_in, HAS_RESIDUAL)
        factor = tl.rsqrt(tl.sum(values * values, axis=1, keep_dims=True) / width + epsilon)
        gain = tl.load(weight + columns, mask=columns < width, other=0.0).to(tl.float32)
        values = values * factor * gain
        if IS_QUANTIZED:
            values, scale = quantized(values, tl.max(tl.abs(values), axis=1, keep_dims=True))
            tl.store(scales + row, scale, mask=is_row)
        tl.store(out + columns, values.to(out.dtype.element_ty), mask=is_in)
    else:
        # ROWS is 1: the first pass sums up, a second finds the largest where a scale is wanted, the last writes.
        squares = tl.zeros([ROWS, BLOCK], tl.float32)
        for start in range(0, width, BLOCK):
            at = start + columns
            values = _summand(x, residual, at, is_row & (at < width), HAS_RESIDUAL)
            squares += values * values
        factor = tl.rsqrt(tl.sum(squares, axis=1, keep_dims=True) / width + epsilon)
        # What other threads wrote to the residual is read again.
        tl.debug_barrier()
        source = residual if HAS_RESIDUAL else x
        largest = tl.zeros([ROWS, 1], tl.float32)
        if IS_QUANTIZED:
            for start in range(0, width, BLOCK):
                at = start + columns
                values = _normed(source, weight, at, is_row & (at < width), factor)
                largest = tl.maximum(largest, tl.max(tl.abs(values), axis=1, keep_dims=True))
            _, scale = quantized(largest, largest)
            tl.store(scales + row, scale, mask=is_row)
        for start in range(0, width, BLOCK):
            at = start + columns
            is_in = is_row & (at < width)
            values = _normed(source, weight, at, is_in, factor)
            if IS_QUANTIZED:
                values, _ = quantized(values, largest)
            tl.store(out + at, values.to(out.dtype.element_ty), mask=is_in)


@triton.jit
def _summand(x, residual, columns, is_in, HAS_RESIDUAL: tl.constexpr):
    """What is normed, float32: x, or residual + x as it is written back, rounded."""
    values = tl.load(x + columns, mask=is_in, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        total = values + tl.load(residual + columns, mask=is_in, other=0.0).to(tl.float32)
        rounded = total.to(residual.dtype.element_ty)
        tl.store(residual + columns, rounded, mask=is_in)
        values = rounded.to(tl.float32)
    return values


@triton.jit
def _normed(source, weight, columns, is_in, factor):
    values = tl.load(source + columns, mask=is_in, other=0.0).to(tl.float32)
    return values * factor * tl.load(weight + columns, mask=is_in, other=0.0).to(tl.float32)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    rows = _as_rows(x)
    out = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
    _run(rows, None, weight, epsilon, out, None)
    return out.view(x.shape)


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _run(_as_rows(x), residual, weight, epsilon, out, None)
    return out


def rms_norm_fp8(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """rms_norm of x [T, H] as (e4m3 [T, H], scales float32 [T])."""
    out, scales = _empty_fp8(x)
    _run(_as_rows(x), None, weight, epsilon, out, scales)
    return out, scales


def add_rms_norm_fp8(
    x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """add_rms_norm of [T, H] as (e4m3 [T, H], scales float32 [T]); the residual stays in its own type."""
    out, scales = _empty_fp8(x)
    _run(_as_rows(x), residual, weight, epsilon, out, scales)
    return out, scales


def _as_rows(x: torch.Tensor) -> torch.Tensor:
    """x [..., H] as [rows, H] with elements side by side; a copy only where it has another layout."""
    rows = x if x.dim() == 2 else x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _empty_fp8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.empty(x.shape, dtype=E4M3, device=x.device),
        torch.empty(x.shape[0], dtype=torch.float32, device=x.device),
    )


def _run(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    epsilon: float,
    out: torch.Tensor,
    scales: torch.Tensor | None,
) -> None:
    if residual is not None and residual.stride(1) != 1:
        raise ValueError("add_rms_norm: the elements of a residual's row must lie side by side")
    if x.shape[0]:
        _launch(x, residual, weight, epsilon, out, scales).run()


def _launch(
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor,
    epsilon: float,
    out: torch.Tensor,
    scales: torch.Tensor | None,
) -> Launch:
    num_rows, width = x.shape
    block = min(next_power_of_2(width), _WIDEST)
    second = x if residual is None else residual
    rows_at_once = 4 if block <= 256 else 1
    return Launch(
        _rms_norm,
        (ceil_div(num_rows, rows_at_once),),
        (
            *(x, x.stride(0), second, second.stride(0), weight, out, width, out if scales is None else scales),
            *(num_rows, width, epsilon),
        ),
        {
            "HAS_RESIDUAL": residual is not None,
            "IS_QUANTIZED": scales is not None,
            "IS_WHOLE": width <= block,
            "ROWS": rows_at_once,
            "BLOCK": block,
        },
        num_warps=4 if block <= 1024 else 8 if block <= 4096 else 16,
        expects=("wide loads",) if width % 16 == 0 and block >= 1024 else (),
    )


def launches(dims: Dims) -> list[Launch]:
    x, weight = (torch.empty(2, dims.hidden_size, dtype=dims.dtype, device="meta")[rows] for rows in (slice(2), 0))
    found = [_launch(x, residual, weight, 1e-6, x, None) for residual in (None, x)]
    if dims.is_fp8:
        found += [_launch(x, residual, weight, 1e-6, *_empty_fp8(x)) for residual in (None, x)]
    return found
