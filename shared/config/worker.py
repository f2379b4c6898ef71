"""The settings of the worker: which model, on which device, in which numbers."""

from __future__ import annotations

from typing import Annotated

from ..flags import Flag
from .service import TENSOR_PARALLEL_SIZE, ServiceConfig


class WorkerConfig(ServiceConfig, frozen=True, kw_only=True):
    """The worker: weights, KV cache and forward passes on one device."""

    model: Annotated[
        str | None, Flag("checkpoint folder, or hub id; the bundled demo model if absent", "model", metavar="MODEL")
    ] = None
    tensor_parallel_size: Annotated[int, TENSOR_PARALLEL_SIZE] = 1
    device: Annotated[
        str, Flag("where the model runs", "model", choices=("auto", "cpu", "cuda"), is_often_used=True)
    ] = "auto"
    dtype: Annotated[
        str,
        Flag(
            "type of weights and activations",
            "model",
            choices=("auto", "float32", "bfloat16", "float16"),
            is_often_used=True,
        ),
    ] = "auto"
    kernels: Annotated[
        str,
        Flag(
            "what computes on a CPU: native needs g++ at the first start; auto takes torch where there is none",
            "model",
            choices=("auto", "torch", "native"),
        ),
    ] = "auto"
    linear: Annotated[
        str,
        Flag(
            "what multiplies by the weights: auto tries what there is at start",
            "model",
            choices=("auto", "native", "onednn", "plain"),
        ),
    ] = "auto"
    quantization: Annotated[
        str,
        Flag(
            "weights of one byte, quantised while loading; int8: products of whole numbers, CPU only; fp8: of 8-bit"
            " floats, fast on GPUs that have them (capability 8.9), on a CPU only right",
            "model",
            choices=("none", "int8", "fp8"),
            is_often_used=True,
        ),
    ] = "none"
    kv_cache_dtype: Annotated[
        str,
        Flag(
            "fp8: twice as many tokens in the KV cache, rounded to 8-bit floats; auto: as the model computes",
            "memory",
            choices=("auto", "fp8"),
        ),
    ] = "auto"
    load_format: Annotated[
        str,
        Flag(
            "dummy: random weights, so that MODEL need be no more than a config.json; for measuring",
            "model",
            choices=("auto", "dummy"),
        ),
    ] = "auto"
    threads: Annotated[
        int | None,
        Flag("CPU threads of the forward pass; absent: the CPUs it may use, one for a tiny model", "model", ge=1),
    ] = None
    fault_points: Annotated[
        str | None,
        Flag("faults at steps or rows, ACTION@step:N or ACTION@token:ID (for tests)", "debugging", is_internal=True),
    ] = None
    poison_blocks: Annotated[
        bool,
        Flag("fill KV blocks with NaN until they are written (slow; for tests)", "debugging", is_internal=True),
    ] = False
    enforce_eager: Annotated[
        bool, Flag("launch every step's kernels one by one: no CUDA graphs, whose memory goes to the KV cache", "model")
    ] = False
    runner: Annotated[
        str,
        Flag(
            "where the batch is kept and who waits for a step: auto is device on a GPU, host on a CPU",
            "debugging",
            choices=("auto", "host", "device"),
            is_internal=True,
        ),
    ] = "auto"
