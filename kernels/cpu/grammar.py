"""The grammar mask: tokens that a row may not sample get a logit of minus infinity."""

from __future__ import annotations

import torch


def keep_allowed(logits: torch.Tensor, rows: torch.Tensor, bits: torch.Tensor) -> None:
    # By bytes, whose bits unpack eight lanes at once; the words are little-endian, so that they follow each other.
    packed = bits.view(torch.uint8)
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    is_allowed = ((packed[:, :, None] >> places) & 1).flatten(1)[:, : logits.shape[1]]
    if len(rows) == len(logits):
        logits.masked_fill_(is_allowed == 0, -torch.inf)
    else:
        logits[rows] = logits[rows].masked_fill(is_allowed == 0, -torch.inf)
