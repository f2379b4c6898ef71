"""The shape of one step's attention: which query tokens read which blocks.

Made once a step by the worker, read by paged_attention in every layer; a backend may keep there
what it derives from it (gather indices, masks, splits), so that layers share it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Ints = npt.NDArray[np.integer[Any]]


class RaggedBatch:
    """B rows with their query tokens laid end to end; rows of one query token come first.

    On the device: `block_tables` int32 [B, max_blocks] (entries past a row's end are any valid block),
    `cu_q` int32 [B + 1] (row b's queries are cu_q[b] : cu_q[b + 1]), `seq_lens` int32 [B] (tokens a row
    has in the cache once this step's are written; its queries are the last of them).
    The same on the host, as numpy: `host_block_tables`, `host_cu_q`, `host_seq_lens`; empty, and is_host_known
    False, for a batch made by `on_device`.
    """

    __slots__ = (
        "block_size",
        "block_tables",
        "cu_q",
        "derived",
        "host_block_tables",
        "host_cu_q",
        "host_seq_lens",
        "is_host_known",
        "max_q_len",
        "max_seq_len",
        "num_decode_rows",
        "num_rows",
        "seq_lens",
    )

    def __init__(
        self,
        block_tables: torch.Tensor,
        cu_q: torch.Tensor,
        seq_lens: torch.Tensor,
        host_block_tables: Ints,
        host_cu_q: Ints,
        host_seq_lens: Ints,
        block_size: int,
    ) -> None:
        q_lens = np.diff(host_cu_q)
        self.block_tables = block_tables
        self.cu_q = cu_q
        self.seq_lens = seq_lens
        self.host_block_tables = host_block_tables
        self.host_cu_q = host_cu_q
        self.host_seq_lens = host_seq_lens
        self.block_size = block_size
        self.num_rows = len(q_lens)
        self.num_decode_rows = int(np.argmax(q_lens != 1)) if (q_lens != 1).any() else len(q_lens)
        self.max_q_len = int(q_lens.max(initial=0))
        self.max_seq_len = int(host_seq_lens.max(initial=0))
        self.is_host_known = True
        self.derived: dict[Any, Any] = {}
        """A backend's own, by its own keys."""

    @classmethod
    def on_device(
        cls,
        block_tables: torch.Tensor,
        cu_q: torch.Tensor,
        seq_lens: torch.Tensor,
        block_size: int,
        num_decode_rows: int,
    ) -> RaggedBatch:
        """Of a step that is put together on the device; a graph's may be used again when the tensors have changed.

        num_decode_rows: of how many rows it is known that they have one query token (0: of none). A row of
        seq_len 0, which has no query tokens or one, pads the batch; what is behind the last row's tokens does too.
        """
        none = np.empty(0, np.int32)
        made = cls(block_tables, cu_q, seq_lens, none.reshape(0, 0), none, none, block_size)
        made.is_host_known = False
        made.num_rows, made.num_decode_rows = len(seq_lens), num_decode_rows
        return made
