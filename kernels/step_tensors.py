"""What a step's kernels read, as prepare_inputs fills it in: buffers that stay where they are, for graphs to hold."""

from __future__ import annotations

from typing import NamedTuple

import torch


class StepTensors(NamedTuple):
    """int32, of T tokens of B rows, both padded to what a graph was captured with."""

    input_ids: torch.Tensor
    """[T]; 0 for padding."""
    positions: torch.Tensor
    """[T]; 0 for padding."""
    slot_mapping: torch.Tensor
    """[T]: where a token's KV is written, block * block_size + offset; -1 for padding."""
    seq_lens: torch.Tensor
    """[B]: tokens in the cache after this step's are written; 0 for padding."""
    block_tables: torch.Tensor
    """[B, columns]; what is past a row's end stays as it was."""
