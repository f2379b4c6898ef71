"""Linear layers in C++ with int8 weights in panels; cpu/linear_int8.py says what they compute.

Whole numbers are summed exactly, so that a row's result depends neither on the rows beside it nor on threads.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch

from ..linear import Pack
from ..linear import int8_kinds as torch_int8_kinds
from ..linear_int8 import Int8Weight, quantize_weight
from ..weight_memory import empty_weight
from .library import LONG, POINTER, function
from .linear_bfloat16 import panel_columns

BOOL = ctypes.c_bool
_pack = function("pack_int8", POINTER, LONG, LONG, POINTER, POINTER)
_rows = function("rows_int8", POINTER, POINTER, LONG, LONG, POINTER, LONG, POINTER, BOOL, returns=BOOL)
_linear = function(
    "linear_int8", *[POINTER] * 3, LONG, LONG, POINTER, BOOL, LONG, LONG, POINTER, POINTER, BOOL
)  # fmt: skip

_MAX_INPUTS = 1 << 16
"""More could overflow an int32: 65,536 x 255 x 127 is just below 2^31."""
_DTYPES = (torch.bfloat16, torch.float32)


class Int8PanelWeight:
    """A quantised weight [out, in]; x and out are bfloat16 or float32, bias is of x's type."""

    __slots__ = ("_addresses", "_dtype", "_held", "_in_size", "_out_size", "has_rows", "nbytes")

    def __init__(self, weight: torch.Tensor) -> None:
        """Raises ValueError."""
        if weight.dtype not in _DTYPES or weight.shape[1] > _MAX_INPUTS:
            limits = f"float32 or bfloat16, at most {_MAX_INPUTS} inputs"
            raise ValueError(f"no int8 of {weight.dtype} {list(weight.shape)}: {limits}")
        quantized, scales = quantize_weight(weight)
        self._out_size, self._in_size = weight.shape
        columns = panel_columns()
        panels = -(-self._out_size // columns)
        packed = empty_weight((panels, -(-self._in_size // 4), columns, 4), torch.int8)
        padded = torch.zeros(panels * columns)
        padded[: self._out_size] = scales
        sums = torch.empty(panels * columns, dtype=torch.int32)
        _pack(quantized.data_ptr(), self._out_size, self._in_size, packed.data_ptr(), sums.data_ptr())
        self._dtype = weight.dtype
        self._held = (packed, padded, sums)
        self._addresses = (packed.data_ptr(), padded.data_ptr(), sums.data_ptr())
        self.nbytes = sum(tensor.nbytes for tensor in self._held)
        self.has_rows = True

    def product(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, out_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        dtype, out_dtype = x.dtype, out_dtype or x.dtype
        if dtype not in _DTYPES or out_dtype not in _DTYPES or x.shape[1] != self._in_size:
            raise ValueError(f"x is {dtype} {list(x.shape)}; the weight takes [*, {self._in_size}]")
        if x.stride(1) != 1:
            x = x.contiguous()
        num_rows = x.shape[0]
        out = torch.empty((num_rows, self._out_size), dtype=out_dtype)
        _linear(
            *self._addresses,
            self._out_size,
            self._in_size,
            x.data_ptr(),
            dtype is torch.float32,
            x.stride(0),
            num_rows,
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            out_dtype is torch.float32,
        )
        return out

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Dequantised, of the type that the weight was of. Raises IndexError."""
        ids = ids.to(torch.int64).contiguous()
        out = torch.empty((len(ids), self._in_size), dtype=self._dtype)
        weight, scales, _ = self._addresses
        is_float = self._dtype is torch.float32
        if not _rows(weight, scales, self._out_size, self._in_size, ids.data_ptr(), len(ids), out.data_ptr(), is_float):
            raise IndexError(f"a row of {ids.tolist()} is not in a weight of {self._out_size}")
        return out


def int8_kinds(device: torch.device) -> Mapping[str, Pack]:
    kinds = torch_int8_kinds(device)
    return {"native": Int8PanelWeight, **kinds} if kinds else kinds


def check() -> None:
    """Raises AssertionError where a product is not torch's."""
    for num_rows, in_size, out_size in ((1, 64, 70), (5, 33, 33), (29, 96, 32)):
        x = (torch.arange(num_rows * in_size) % 7 - 2.9).view(num_rows, in_size)
        weight = (torch.arange(out_size * in_size) % 5 - 2.1).view(out_size, in_size)
        found, expected = Int8PanelWeight(weight).product(x), Int8Weight(weight).product(x)
        if not torch.allclose(found, expected, rtol=1e-5, atol=1e-5):
            raise AssertionError(f"a product of {num_rows} rows [{in_size}] with [{out_size}, {in_size}]")
