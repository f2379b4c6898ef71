"""Seconds of a call on a device: on a GPU from replays of a graph of many calls in a row, on a CPU by the clock."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.recording import percentile

_IN_A_ROW = 32
_REPLAYS = 7
_CPU_SECONDS = 0.02


def seconds(call: Callable[[], Any], device: str) -> float:
    """The median. `call` should take other memory each time, so that a cache holds nothing of it."""
    return _on_gpu(call) if device == "cuda" else _on_cpu(call)


def _on_cpu(call: Callable[[], Any]) -> float:
    call()
    times: list[float] = []
    end = time.perf_counter() + _CPU_SECONDS
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return percentile(times, 50)


def _on_gpu(call: Callable[[], Any]) -> float:
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    many = _captured(call) or (lambda: [call() for _ in range(_IN_A_ROW)])
    many()
    times = []
    for _ in range(_REPLAYS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        many()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / _IN_A_ROW)
    return percentile(times, 50)


def _captured(call: Callable[[], Any]) -> Callable[[], None] | None:
    """A graph of calls in a row; None for what cannot be captured because it waits for the device."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            for _ in range(_IN_A_ROW):
                call()
    except RuntimeError:
        torch.cuda.synchronize()
        return None
    return graph.replay


def release(device: str) -> None:
    """Give back what a section took on a GPU."""
    if device == "cuda":
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
