"""Linear layers with int8 weights in torch: a scale for each output, and one for each row of x as it comes.

Products are summed exactly in whole numbers; rounding happens where x is quantised and where scales are applied.
"""

from __future__ import annotations

import torch

from .weight_memory import empty_weight

_CHUNK_SIZE = 1 << 18
"""Weights in float32 at once: little, so that the heap that freed ones leave behind stays small."""
_LEAST = 1e-30
"""A row of nothing greater is taken for 0."""


def quantize_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """x [T, in] -> int8 [T, in] and float32 scales [T]: x is about int8 * scale.

    The scale of a row with NaN or infinity is NaN.
    """
    x = x.float()
    most = x.abs().amax(1) if x.shape[1] else x.new_zeros(len(x))
    is_zero = ~(most >= _LEAST) | ~most.isfinite()
    # Not 127.0 / most, which torch takes for 127.0 * (1 / most).
    inverse = torch.where(is_zero, 0.0, torch.full_like(most, 127.0) / most)
    rounded = torch.where(is_zero[:, None], 0.0, (x * inverse[:, None]).round())
    scales = torch.where(is_zero, torch.where(most.isfinite(), 0.0, torch.nan), most / 127.0)
    return rounded.to(torch.int8), scales


def quantize_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, some rows at a time: in float32 a whole head would take much memory."""
    quantized = empty_weight(tuple(weight.shape), torch.int8)
    scales = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    step = max(1, _CHUNK_SIZE // max(1, weight.shape[1]))
    for start in range(0, len(weight), step):
        part = slice(start, start + step)
        quantized[part], scales[part] = quantize_rows(weight[part])
    return quantized, scales


class Int8Weight:
    """A quantised weight [out, in]: the specification, and for machines without the native library."""

    has_rows = True

    def __init__(self, weight: torch.Tensor) -> None:
        self._dtype = weight.dtype
        self._weight, self._scales = quantize_weight(weight)
        self.nbytes = self._weight.nbytes + self._scales.nbytes

    def product(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, out_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        quantized, scales = quantize_rows(x)
        sums = torch.ops.aten._int_mm(quantized, self._weight.T)
        out = sums.float() * (scales[:, None] * self._scales)
        return (out if bias is None else out + bias.float()).to(out_dtype or x.dtype)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        ids = ids.long()
        return (self._weight[ids].float() * self._scales[ids, None]).to(self._dtype)
