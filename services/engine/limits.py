"""The limits of a replica: what the device and the flags allow."""

from __future__ import annotations

import msgspec


class Limits(msgspec.Struct, frozen=True):
    """All counts."""

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    schedule_policy: str = "fcfs"
    prefix_caching: bool = True
