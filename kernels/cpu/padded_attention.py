"""Attention of a batch whose lengths lie on the device alone, padded to what a graph holds: fetched, the long way.

For the CPU, where device tensors are the host's own; on a GPU fetching would wait for it, in every layer.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..ragged_batch import RaggedBatch

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, RaggedBatch], torch.Tensor]


def attend_padded(
    attend: Attend, q: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, batch: RaggedBatch
) -> torch.Tensor:
    """As `attend` does of the rows that are there; zeros for what pads."""
    cu_q, seq_lens = batch.cu_q.cpu().numpy(), batch.seq_lens.cpu().numpy()
    q_lens = np.diff(cu_q)
    rows = np.flatnonzero((seq_lens > 0) & (q_lens > 0))
    out = torch.zeros(q.shape, dtype=q.dtype, device=q.device)
    if not len(rows):
        return out
    places = [np.arange(int(cu_q[row]), int(cu_q[row + 1])) for row in rows]
    tokens = torch.from_numpy(np.concatenate(places)).to(q.device)
    num_columns = -(-int(seq_lens[rows].max()) // batch.block_size)
    tables = batch.block_tables[:, :num_columns].cpu().numpy()[rows]
    inner = np.zeros(len(rows) + 1, np.int32)
    np.cumsum(q_lens[rows], out=inner[1:])
    columns = [torch.from_numpy(column).to(q.device) for column in (tables, inner, seq_lens[rows])]
    there = RaggedBatch(columns[0], columns[1], columns[2], tables, inner, seq_lens[rows], block_size=batch.block_size)
    out[tokens] = attend(q[tokens], key_cache, value_cache, there)
    return out
