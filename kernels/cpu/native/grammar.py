"""The grammar mask in C++: one pass over each row, for float32 logits whose rows lie side by side.

Types or layouts that the library does not take go to torch.
"""

from __future__ import annotations

import torch

from .. import grammar as torch_grammar
from .library import LONG, POINTER, function

_keep_allowed = function("keep_allowed", POINTER, LONG, LONG, POINTER, POINTER, LONG, LONG)


def keep_allowed(logits: torch.Tensor, rows: torch.Tensor, bits: torch.Tensor) -> None:
    is_taken = (
        logits.dtype == torch.float32
        and (logits.stride(1) == 1 or logits.shape[1] == 1)
        and rows.dtype == torch.int64
        and bits.dtype == torch.int32
        and bits.shape[1] * 32 >= logits.shape[1]
        and rows.is_contiguous()
        and bits.is_contiguous()
    )
    if not is_taken:
        torch_grammar.keep_allowed(logits, rows, bits)
        return
    num_words = bits.shape[1]
    addresses = rows.data_ptr(), bits.data_ptr()
    _keep_allowed(logits.data_ptr(), logits.stride(0), logits.shape[1], *addresses, num_words, len(rows))


def check() -> None:
    """Raises AssertionError where this differs from torch."""
    generator = torch.Generator().manual_seed(7)
    logits = torch.randn(4, 1000, generator=generator)
    rows = torch.tensor([0, 2, 3])
    bits = torch.randint(-(1 << 31), 1 << 31, (3, 32), dtype=torch.int64, generator=generator).to(torch.int32)
    bits[0, 3], bits[1, 4] = -1, 0
    ours, theirs = logits.clone(), logits.clone()
    keep_allowed(ours, rows, bits)
    torch_grammar.keep_allowed(theirs, rows, bits)
    if not torch.equal(ours, theirs):
        raise AssertionError("grammar masks")
