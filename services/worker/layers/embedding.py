"""Token embedding, and the head that turns hidden states to logits (the same matrix when tied)."""

from __future__ import annotations

import torch

from quire import kernels

from .placement import Placement, Targets, unpacked


class Embedding:
    """input_ids [T] -> [T, hidden_size]."""

    def __init__(self, placement: Placement, vocab_size: int, hidden_size: int) -> None:
        self.weight: torch.Tensor | kernels.PackedWeight = placement.empty(vocab_size, hidden_size)

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        return kernels.weight_rows(self.weight, input_ids)

    def targets(self) -> Targets:
        return {"weight": unpacked(self.weight)}


class Head:
    """hidden [N, hidden_size] -> float32 logits [N, vocab_size]. `tied`: the embedding whose matrix it shares."""

    def __init__(self, placement: Placement, vocab_size: int, hidden_size: int, tied: Embedding | None) -> None:
        self._tied = tied
        self.weight = tied.weight if tied is not None else placement.empty(vocab_size, hidden_size)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return kernels.linear(hidden, self.weight, None, torch.float32)

    def pack(self, choice: kernels.LinearChoice) -> None:
        """After loading. Rows of a shared matrix are then read from here, or from a matrix of their own if need be."""
        self.weight = choice.pack(unpacked(self.weight))
        if self._tied is not None and self.weight.has_rows:
            self._tied.weight = self.weight

    def targets(self) -> Targets:
        return {} if self._tied is not None else {"weight": unpacked(self.weight)}
