"""A linear layer's weight on 8-bit floats, packed as `linear` takes it; x may come quantised, as a norm has left it."""

from __future__ import annotations

from typing import NamedTuple

import torch

from . import fp8
from .fp8 import QuantizedRows


class Fp8Kind(NamedTuple):
    """How a device computes with weights in fp8."""

    pack: type[Fp8PackedWeight]
    what: str
    """It computes with, for people."""
    has_fused: bool
    """Whether its norms and activations can write QuantizedRows."""


class Fp8PackedWeight:
    """A quantised weight [out, in]: the specification, which writes it out in full for each product."""

    has_rows = False

    def __init__(self, weight: torch.Tensor) -> None:
        self._packed = self._pack(weight)
        self.nbytes = self._packed.weight.nbytes + self._packed.scales.nbytes

    def product(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, out_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        return self.product_of_quantized(QuantizedRows(*self._quantize(x), out_dtype or x.dtype), bias)

    def product_of_quantized(self, x: QuantizedRows, bias: torch.Tensor | None = None) -> torch.Tensor:
        """[T, out] of x.dtype."""
        return self._multiply(x.numbers, x.scales, self._packed, bias, x.dtype)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("embeddings are not quantised to fp8")

    _pack = staticmethod(fp8.pack_fp8)
    _quantize = staticmethod(fp8.quantize_rows)
    _multiply = staticmethod(fp8.linear_quantized)


def fp8_kind(device: torch.device) -> Fp8Kind:
    return Fp8Kind(Fp8PackedWeight, "written out for each product", has_fused=True)
