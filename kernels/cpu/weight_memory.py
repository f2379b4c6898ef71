"""Memory for weights: pages of their own, large ones where the system has them, given back as soon as they are free.

What the C library's heap has handed out may stay with the process after it is freed; at 4 KiB a page,
reading weights spends much of its time on looking up addresses.
"""

from __future__ import annotations

import math
import mmap

import torch

_LARGE_PAGE = 2 << 20


def empty_weight(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor of unspecified content on the CPU. Pages that are never written to take no memory."""
    size = math.prod(shape) * dtype.itemsize
    if size < _LARGE_PAGE or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    pages = mmap.mmap(-1, size + _LARGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    pages.madvise(mmap.MADV_HUGEPAGE)
    start = -torch.frombuffer(pages, dtype=torch.uint8, count=1).data_ptr() % _LARGE_PAGE
    return torch.frombuffer(pages, dtype=dtype, count=math.prod(shape), offset=start).view(shape)
