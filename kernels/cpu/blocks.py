"""Block copies within the KV cache (copy-on-write of shared tails)."""

from __future__ import annotations

import torch


def copy_blocks(caches: torch.Tensor, pairs: list[tuple[int, int]]) -> None:
    if caches.dtype.itemsize == 1:
        caches = caches.view(torch.uint8)  # torch indexes no 8-bit floats
    sources, targets = (list(side) for side in zip(*pairs, strict=True))
    if set(sources).isdisjoint(targets):
        caches[:, targets] = caches[:, sources]
        return
    for source, target in pairs:
        caches[:, target] = caches[:, source]
