"""The settings of the engine: how many rows and tokens run at once, in how many blocks, in which order."""

from __future__ import annotations

from typing import Annotated

from ..flags import Flag
from .service import TENSOR_PARALLEL_SIZE, ServiceConfig


class EngineConfig(ServiceConfig, frozen=True, kw_only=True):
    """The engine: scheduler, block manager and prefix cache of one model replica."""

    max_num_seqs: Annotated[int, Flag("rows that run at once", "scheduling", ge=1, le=4096, is_often_used=True)] = 64
    max_num_batched_tokens: Annotated[int, Flag("token budget of one step", "scheduling", ge=1, le=1 << 20)] = 1024
    max_model_len: Annotated[
        int | None,
        Flag(
            "longest prompt + output; absent: the checkpoint's, or what the KV cache holds",
            "scheduling",
            ge=2,
            is_often_used=True,
        ),
    ] = None
    block_size: Annotated[int, Flag("tokens of one KV block", "memory", ge=1, le=256)] = 16
    kv_cache_memory: Annotated[
        int | None,
        Flag("bytes of KV cache; absent: by --memory-utilization", "memory", ge=1, is_size=True, is_often_used=True),
    ] = None
    memory_utilization: Annotated[
        float,
        Flag("share of the device's memory that this server may take", "memory", ge=0.01, le=1.0, is_often_used=True),
    ] = 0.9
    schedule_policy: Annotated[
        str, Flag("who goes first when not all fit", "scheduling", choices=("fcfs", "priority"))
    ] = "fcfs"
    prefix_caching: Annotated[bool, Flag("reuse the KV of shared prompt prefixes", "scheduling")] = True
    overlap_depth: Annotated[
        int, Flag("plans in flight: 2 plans a step while the one before it runs", "scheduling", ge=1, le=2)
    ] = 2
    max_waiting: Annotated[
        int | None,
        Flag(
            "choices in the engine beyond which requests are refused; absent: 4 x --max-num-seqs, at least 64",
            "scheduling",
            ge=1,
        ),
    ] = None
    workers: Annotated[
        tuple[str, ...], Flag("address of a worker that is in no shared run directory, tcp://HOST:PORT", "links")
    ] = ()
    tensor_parallel_size: Annotated[int, TENSOR_PARALLEL_SIZE] = 1
    check_invariants: Annotated[
        bool,
        Flag("re-derive every invariant of blocks and prefix cache after each step (slow; for tests)", "debugging"),
    ] = False
