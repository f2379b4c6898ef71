"""Linear layers in C++: bfloat16 weights in panels, for any number of rows without padding or per-shape state.

A row's result depends neither on the rows beside it nor on the number of threads. Sums are taken in float32
and rounded once. Rows can be read out of the panels again, so that a tied embedding is held once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch

from ..linear import Pack
from ..linear import linear_kinds as torch_linear_kinds
from ..weight_memory import empty_weight
from .library import LONG, POINTER, function

panel_columns = function("panel_columns", returns=LONG)
_pack = function("pack_bf16", POINTER, LONG, LONG, POINTER)
_rows = function("rows_bf16", POINTER, LONG, LONG, POINTER, LONG, POINTER, returns=ctypes.c_bool)
_linear = function("linear_bf16", POINTER, LONG, LONG, POINTER, LONG, LONG, POINTER, POINTER, ctypes.c_bool)

BFLOAT16, FLOAT32 = torch.bfloat16, torch.float32


class PanelWeight:
    """A bfloat16 weight [out, in] in panels; for x of bfloat16, and out of bfloat16 or float32."""

    __slots__ = ("_address", "_in_size", "_out_size", "_panels", "has_rows", "nbytes")

    def __init__(self, weight: torch.Tensor) -> None:
        weight = weight.contiguous()
        self._out_size, self._in_size = weight.shape
        columns = panel_columns()
        shape = (-(-self._out_size // columns), -(-self._in_size // 2), columns, 2)
        self._panels = empty_weight(shape, BFLOAT16)
        self._address = self._panels.data_ptr()
        self.nbytes = self._panels.nbytes
        self.has_rows = True
        _pack(weight.data_ptr(), self._out_size, self._in_size, self._address)

    def product(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, out_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        if x.dtype is not BFLOAT16 or x.shape[1] != self._in_size:
            raise ValueError(f"x is {x.dtype} {list(x.shape)}; the weight takes {BFLOAT16} [*, {self._in_size}]")
        if x.stride(1) != 1:
            x = x.contiguous()
        num_rows = x.shape[0]
        out = torch.empty((num_rows, self._out_size), dtype=out_dtype or BFLOAT16)
        _linear(
            self._address,
            self._out_size,
            self._in_size,
            x.data_ptr(),
            x.stride(0),
            num_rows,
            None if bias is None else bias.data_ptr(),
            out.data_ptr(),
            out_dtype is FLOAT32,
        )
        return out

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Raises IndexError."""
        ids = ids.to(torch.int64).contiguous()
        out = torch.empty((len(ids), self._in_size), dtype=BFLOAT16)
        if not _rows(self._address, self._out_size, self._in_size, ids.data_ptr(), len(ids), out.data_ptr()):
            raise IndexError(f"a row of {ids.tolist()} is not in a weight of {self._out_size}")
        return out


def linear_kinds(device: torch.device, dtype: torch.dtype) -> Mapping[str, Pack]:
    kinds = torch_linear_kinds(device, dtype)
    return {"native": PanelWeight, **kinds} if device.type == "cpu" and dtype == BFLOAT16 else kinds


def pack_linear(weight: torch.Tensor) -> object:
    return next(iter(linear_kinds(weight.device, weight.dtype).values()))(weight)


def check() -> None:
    """Raises AssertionError: small whole numbers, of which no sum is rounded."""
    for num_rows, in_size, out_size in ((1, 64, 70), (5, 33, 33), (29, 96, 32)):
        x = (torch.arange(num_rows * in_size) % 7 - 3).view(num_rows, in_size).to(BFLOAT16)
        weight = (torch.arange(out_size * in_size) % 5 - 2).view(out_size, in_size).to(BFLOAT16)
        packed = PanelWeight(weight)
        if not torch.equal(packed.product(x, None, FLOAT32), x.float() @ weight.float().T):
            raise AssertionError(f"a product of {num_rows} rows [{in_size}] with [{out_size}, {in_size}]")
        if not torch.equal(packed.rows(torch.arange(out_size)), weight):
            raise AssertionError(f"the rows of a weight [{out_size}, {in_size}]")
