"""Token embedding, and the head that turns hidden states to logits (the same matrix when tied).

Of several ranks each holds some rows of the vocabulary, as many as the others by padding with zeros.
"""

from __future__ import annotations

import torch

from quire import kernels
from quire.shared.sharding import vocab_part

from .placement import Placement, Targets, unpacked


class Embedding:
    """input_ids [T] -> [T, hidden_size]."""

    def __init__(self, placement: Placement, vocab_size: int, hidden_size: int) -> None:
        self._group = placement.group
        self._first, self._end = placement.group.vocab_rows(vocab_size)
        self.weight: torch.Tensor | kernels.PackedWeight = _vocabulary(placement, vocab_size, hidden_size)

    def __call__(self, input_ids: torch.Tensor) -> torch.Tensor:
        if self._group.size == 1:
            return kernels.weight_rows(self.weight, input_ids)
        is_elsewhere = (input_ids < self._first) | (input_ids >= self._end)
        own = kernels.weight_rows(self.weight, (input_ids - self._first).masked_fill(is_elsewhere, 0))
        return self._group.all_reduce(own.masked_fill(is_elsewhere[:, None], 0.0))

    def targets(self) -> Targets:
        return {"weight": unpacked(self.weight)[: self._end - self._first]}


class Head:
    """hidden [N, hidden_size] -> logits [N, vocab_size], float32 unless asked otherwise.

    tied: the embedding whose matrix it shares.
    """

    def __init__(self, placement: Placement, vocab_size: int, hidden_size: int, tied: Embedding | None) -> None:
        self._tied = tied
        self._group = placement.group
        self._vocab_size = vocab_size
        first, end = placement.group.vocab_rows(vocab_size)
        self._num_own = end - first
        self.weight = tied.weight if tied is not None else _vocabulary(placement, vocab_size, hidden_size)

    def __call__(self, hidden: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        logits = kernels.linear(hidden, self.weight, None, dtype)
        return self._group.gather_columns(logits, self._vocab_size)

    def pack(self, choice: kernels.LinearChoice) -> None:
        """After loading. Rows of a shared matrix are then read from here, or from a matrix of their own if need be."""
        self.weight = (choice.pack_head or choice.pack)(unpacked(self.weight))
        if self._tied is not None and self.weight.has_rows:
            self._tied.weight = self.weight

    def targets(self) -> Targets:
        return {} if self._tied is not None else {"weight": unpacked(self.weight)[: self._num_own]}


def _vocabulary(placement: Placement, vocab_size: int, hidden_size: int) -> torch.Tensor:
    """This rank's rows, not filled but for its padding."""
    first, end = placement.group.vocab_rows(vocab_size)
    weight = placement.empty(vocab_part(vocab_size, placement.group.size), hidden_size)
    weight[end - first :].zero_()
    return weight
