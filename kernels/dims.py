"""What fixes the variants of kernels that a model's steps launch, so that all can be compiled before the first."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Dims(NamedTuple):
    """What a model and its worker fix once: all that the choice of a variant may depend on, beside the rows."""

    dtype: torch.dtype
    cache_dtype: torch.dtype
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    block_size: int
    max_num_seqs: int
    max_num_blocks: int
    """Columns of a block table."""
    has_qk_norm: bool
    activation: str
    windows: tuple[int | None, ...]
    """The sliding windows that layers have, each once; None for full attention."""
    is_fp8: bool = False
    """Whether linears take e4m3 rows, so that norms and activations write them."""
