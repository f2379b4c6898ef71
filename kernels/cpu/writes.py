"""Writes of a step's changes into what is kept on the device, and copies of blocks by pairs that lie there."""

from __future__ import annotations

import torch


def write_words(target: torch.Tensor, packed: torch.Tensor, segments: torch.Tensor) -> None:
    places, sources, lengths = segments.long().unbind(1)
    ends = lengths.cumsum(0)
    offsets = torch.arange(int(lengths.sum()), device=packed.device) - (ends - lengths).repeat_interleave(lengths)
    written = packed[sources.repeat_interleave(lengths) + offsets]
    target[places.repeat_interleave(lengths) + offsets] = written


def copy_block_pairs(caches: torch.Tensor, pairs: torch.Tensor) -> None:
    sources, targets = pairs.long().unbind(1)
    # Indexing knows no fp8.
    plain = caches.view(torch.uint8) if caches.dtype.itemsize == 1 else caches
    plain[:, targets] = plain[:, sources]
