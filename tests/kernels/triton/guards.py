"""Guard rows: tensors that lie between NaN, so that a kernel which reads or writes beside them is found out.

The interpreter checks no bounds. Integers are guarded by a number that is out of every range, and what an
operation allocates itself (`torch.empty`, `torch.empty_like`) is guarded too, and poisoned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

_GUARD_BYTES = 4096
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def poison(dtype: torch.dtype) -> float | int | bool:
    """What guards hold: NaN, or an integer far out of range."""
    if dtype.is_floating_point:
        return math.nan
    return True if dtype is torch.bool else torch.iinfo(dtype).max - 5


class Guards:
    """All guarded tensors of one test."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._buffers: list[tuple[torch.Tensor, int, int]] = []

    def empty(self, *size: Any, dtype: torch.dtype | None = None, device: Any = None, **others: Any) -> torch.Tensor:
        """As torch.empty, but poisoned and guarded; aligned to 16 bytes, as an allocator's are."""
        del device, others
        shape: Sequence[int] = size[0] if size and isinstance(size[0], (tuple, list, torch.Size)) else size
        dtype = dtype or torch.get_default_dtype()
        guard, count = _GUARD_BYTES // dtype.itemsize, math.prod(shape)
        buffer = torch.zeros(count + 2 * guard, dtype=torch.float32).to(dtype).to(self.device)
        buffer.fill_(poison(dtype))
        self._buffers.append((buffer, guard, count))
        return buffer[guard : guard + count].view(tuple(shape))

    def empty_like(self, tensor: torch.Tensor, **others: Any) -> torch.Tensor:
        return self.empty(tensor.shape, dtype=others.get("dtype") or tensor.dtype)

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        """A guarded copy on the device."""
        copy = self.empty(tensor.shape, dtype=tensor.dtype)
        copy.copy_(tensor)
        return copy

    def check(self) -> None:
        """That nothing has been written into a guard."""
        for buffer, guard, count in self._buffers:
            bits = buffer.view(_BITS[buffer.dtype.itemsize])
            beside = torch.cat((bits[:guard], bits[guard + count :]))
            assert (beside == beside[0]).all(), f"written beside a tensor of {count} x {buffer.dtype}"


def relative_error(out: torch.Tensor, expected: torch.Tensor) -> float:
    """Frobenius norm of the difference over that of `expected`; NaN if there is one in either."""
    expected = expected.double().cpu()
    return float((out.double().cpu() - expected).norm() / expected.norm().clamp_min(1e-30))
