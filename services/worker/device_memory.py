"""What a GPU says of its memory, and the room that is this process's: its own, and what others leave of the rest.

Read before and after a trial of steps and graphs, so that their memory is what the device took and not an estimate.
Knows no model; memory_plan.py divides the room up.
"""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable
from typing import Protocol

import torch
from msgspec import Struct

logger = logging.getLogger("quire.worker")

_STEADY_BYTES = 32 << 20
"""By which what others hold may differ between two readings that count as the same."""
_NUM_READINGS = 20
_PAUSE_SECONDS = 0.1
_LEFT_BYTES = 1 << 30
"""Of what others leave, for what no plan sees: the driver, a library's first use, torch's rounding up."""
_DRIVER_BYTES = 1 << 30
"""What a driver may hold for one process: no other process is blamed for so little."""
_LEAST_OF_GRAPH, _MOST_OF_GRAPH = 1 << 20, 16 << 20
"""What the driver is reckoned to keep for a captured graph, whatever else came and went while some were captured."""


class Numbers(Struct, frozen=True):
    """One reading, bytes."""

    total: int
    free: int
    """Of the whole device."""
    own: int
    """Taken by this process through torch, in use or kept for its next use."""

    @property
    def others(self) -> int:
        """Of other processes, and of this one's driver: its context, loaded kernels, graphs."""
        return self.total - self.free - self.own


class DeviceMemory(Protocol):
    """A GPU's accounts."""

    def read(self) -> Numbers: ...

    def give_back(self) -> None:
        """What this process keeps and does not use."""
        ...


class CudaMemory:
    def __init__(self, device: torch.device) -> None:
        self._device = device

    def read(self) -> Numbers:
        torch.cuda.synchronize(self._device)
        free, total = torch.cuda.mem_get_info(self._device)
        return Numbers(total, free, torch.cuda.memory_reserved(self._device))

    def give_back(self) -> None:
        gc.collect()
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()


class Trial(Protocol):
    """What a configuration will take beside its KV cache, taken once to see how much that is."""

    named_bytes: int
    """Of what the steps keep, what has a name of its own in the plan."""

    def steps(self) -> None:
        """The largest; what they took stays until `close`."""
        ...

    def some_graphs(self) -> tuple[int, int]:
        """Capture the largest and some more; how many, and how many there will be. (0, 0): none."""
        ...

    def close(self) -> None: ...


class Room(Struct, frozen=True):
    """Bytes. What is this process's, and how far it may go."""

    weights: int
    """There already, as the device counts them."""
    workspace: int
    """What the largest step took beside them."""
    graphs: int
    """What all graphs will take, by those that were captured."""
    free: int
    """What can be taken beside the weights, the workspace included."""
    limit: int
    """Of all that this process takes."""
    in_the_way: int = 0
    """What others hold, where that and not --memory-utilization sets the limit."""


def measure_room(
    memory: DeviceMemory, trial: Trial, utilization: float, pause: Callable[[float], None] = time.sleep
) -> Room:
    """`trial` is made and used up here; weights are there. Memory of others is neither ours nor free.

    limit: `utilization` of the whole device, so that two servers with 0.45 each fit whichever starts first; but never
    more than others leave.
    """
    memory.give_back()
    before = _settled(memory, pause)
    try:
        trial.steps()
        after = _settled(memory, pause)
        graphs = _of_graphs(after, trial.some_graphs(), memory)
    finally:
        trial.close()
    memory.give_back()
    if abs(after.others - before.others) > _DRIVER_BYTES:
        logger.info(
            "other processes on the GPU went from %s to %s while this one was measured; the plan is by the latter",
            size_text(before.others),
            size_text(after.others),
        )
    possible = after.own + after.free - _LEFT_BYTES
    limit = int(after.total * utilization)
    if possible < limit:
        logger.info(
            "other processes and the driver hold %s of the GPU's %s: this one may take %s, not the %s of"
            " --memory-utilization %g",
            *(size_text(size) for size in (after.others, after.total, max(0, possible), limit)),
            utilization,
        )
    return Room(
        weights=before.own,
        workspace=max(0, after.own - before.own - trial.named_bytes),
        graphs=graphs,
        free=after.own + after.free - before.own,
        limit=min(limit, possible),
        in_the_way=after.others if possible < limit and after.others > _DRIVER_BYTES else 0,
    )


def _of_graphs(before: Numbers, counts: tuple[int, int], memory: DeviceMemory) -> int:
    """All share the memory of the largest, which has been captured; what the driver keeps is each one's own."""
    captured, in_all = counts
    if not captured:
        return 0
    after = memory.read()
    each = (after.others - before.others) // captured
    return max(0, after.own - before.own) + in_all * min(max(each, _LEAST_OF_GRAPH), _MOST_OF_GRAPH)


def _settled(memory: DeviceMemory, pause: Callable[[float], None]) -> Numbers:
    """A reading that the next one agrees with: another server may be loading, or ending, at the same time."""
    last = memory.read()
    for _ in range(_NUM_READINGS):
        pause(_PAUSE_SECONDS)
        now = memory.read()
        if abs(now.others - last.others) <= _STEADY_BYTES:
            return now
        last = now
    logger.warning(
        "other processes on the GPU keep taking or giving back memory; planning with the %s that are free now."
        " If this ends for want of memory, start one after the other, or lower --memory-utilization",
        size_text(last.free),
    )
    return last


def size_text(count: int) -> str:
    """In the largest unit of which there is at least one."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"
