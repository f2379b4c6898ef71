"""Token embedding, and the head that turns hidden states to logits (the same matrix when tied)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from quire import kernels

from .placement import Placement, Targets


class Embedding:
    """input_ids [T] -> [T, hidden_size]."""

    def __init__(self, placement: Placement, vocab_size: int, hidden_size: int) -> None:
        self.weight = placement.empty(vocab_size, hidden_size)

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        return F.embedding(input_ids, self.weight)

    def targets(self) -> Targets:
        return {"weight": self.weight}


class Head:
    """hidden [N, hidden_size] -> float32 logits [N, vocab_size]. `tied`: the embedding whose matrix it shares."""

    def __init__(self, placement: Placement, vocab_size: int, hidden_size: int, tied: Embedding | None) -> None:
        self._is_tied = tied is not None
        self.weight = tied.weight if tied is not None else placement.empty(vocab_size, hidden_size)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return kernels.linear(hidden, self.weight, None).float()

    def pack(self) -> None:
        """After loading. A shared matrix is then there twice: once to look up rows, once to multiply."""
        self.weight = kernels.pack_linear(self.weight)

    def targets(self) -> Targets:
        return {} if self._is_tied else {"weight": self.weight}
