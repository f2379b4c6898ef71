"""Linear layers in torch: weights as they are, or laid out by oneDNN for its matrix products beforehand.

At few rows a product is bound by reading the weights, and reading them in blocks of oneDNN's own order
is 1.1 to 3 times as fast as what F.linear does (64 rows to 1, bfloat16 and float32, two cores with AVX512-BF16).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeAlias

import torch
import torch.nn.functional as F

from .linear_int8 import Int8Weight

_TYPICAL_ROWS = 16
"""What the layout is chosen for; any other number works as well."""


class PackedWeight(Protocol):
    """A weight [out, in] in the layout that its own product reads best."""

    nbytes: int
    has_rows: bool

    def product(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, out_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        """x [T, in] @ weight^T + bias [out]: [T, out] of out_dtype, x's where None.

        What is asked for in float32 of bfloat16 may have been rounded to bfloat16 on the way.
        """
        ...

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        """Rows `ids` [T] of the weight: [T, in]. Only where has_rows."""
        ...


Pack: TypeAlias = Callable[[torch.Tensor], PackedWeight]
"""Of a weight [out, in], which is not needed afterwards; may take as much memory again."""


class PlainWeight:
    """A weight as it is."""

    has_rows = True

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = weight
        self.nbytes = weight.nbytes

    def product(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, out_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        return F.linear(x, self._weight, bias).to(out_dtype or x.dtype)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(ids, self._weight)


class OneDNNWeight:
    """A weight in oneDNN's blocks."""

    has_rows = False

    def __init__(self, weight: torch.Tensor) -> None:
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS)
        self.nbytes = weight.nbytes

    def product(
        self, x: torch.Tensor, bias: torch.Tensor | None = None, out_dtype: torch.dtype | None = None
    ) -> torch.Tensor:
        num_rows = x.shape[0]
        padded = padded_rows(num_rows)
        if padded != num_rows:
            x = F.pad(x, (0, 0, 0, padded - num_rows))
        out = torch.ops.mkldnn._linear_pointwise(x, self._weight, bias, "none", [], "")[:num_rows]
        return out.to(out_dtype or x.dtype)

    def rows(self, ids: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("oneDNN's blocks are its own")


def linear_kinds(device: torch.device, dtype: torch.dtype) -> Mapping[str, Pack]:
    """What weights can be packed for, by name, what is likely best first."""
    is_fit = dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or not is_fit:
        return {"plain": PlainWeight}
    return {"onednn": OneDNNWeight, "plain": PlainWeight}


def int8_kinds(device: torch.device) -> Mapping[str, Pack]:
    """The same for weights that are quantised when they are packed; empty where that cannot be."""
    return {"plain": Int8Weight} if device.type == "cpu" else {}


def pack_linear(weight: torch.Tensor) -> PackedWeight:
    return next(iter(linear_kinds(weight.device, weight.dtype).values()))(weight)


def linear(
    x: torch.Tensor,
    weight: torch.Tensor | PackedWeight,
    bias: torch.Tensor | None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    packed = PlainWeight(weight) if isinstance(weight, torch.Tensor) else weight
    return packed.product(x, bias, out_dtype)


def padded_rows(num_rows: int) -> int:
    """The number of rows a product is computed with.

    oneDNN compiles code for each number of rows and keeps it for ever, about 0.3 MB for bfloat16: without
    this a server would grow by hundreds of megabytes while it meets one number after the other.
    """
    if num_rows <= 16:
        return num_rows
    step = 8 if num_rows <= 64 else 32 if num_rows <= 256 else 128
    return -(-num_rows // step) * step
