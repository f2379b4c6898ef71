"""Graphs of steps: which shapes are captured, which one a step is padded to, and what captures and replays them.

Two graphs a step: to the logits, by shape, and from them, by the number of rows, so that masks may come in between.
A replayed graph costs the host one call where an eager step costs it some three hundred. Captured once a
configuration, the largest first, so that all share the memory of the first.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

import torch

from .device_step import StepShape
from .device_stream import DeviceStream

logger = logging.getLogger("quire.worker")

_MOST_TOKENS = 512
"""Of a graph; what a larger step launches takes the device longer than the host."""
_MIXED_SIZES = (16, 32, 48, 64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512)
"""Tokens of graphs of steps that are not decode alone. Where products are bound by arithmetic, above 128, padding is at
most a quarter."""
_GRAPH_BYTES = 3 << 20
"""What a graph of a shape is reckoned to take beside the memory that all share; measured once they are captured."""

Replay = Callable[[], None]


def decode_sizes(max_rows: int) -> list[int]:
    """Numbers of rows: 1, 2, 4, 8, then by 8 to 64, by 16 to 256, by 32 to 512; up to max_rows, and that itself."""
    sizes = [1, 2, 4, 8, *range(16, 65, 8), *range(80, 257, 16), *range(288, _MOST_TOKENS + 1, 32)]
    return _up_to(sizes, min(max_rows, _MOST_TOKENS))


def mixed_sizes(max_tokens: int) -> list[int]:
    """Numbers of tokens, ascending."""
    return _up_to(_MIXED_SIZES, min(max_tokens, _MOST_TOKENS))


def _up_to(sizes: Iterable[int], most: int) -> list[int]:
    return [*(size for size in sizes if size < most), most]


class Sizes(NamedTuple):
    """What is captured, ascending."""

    decode: Sequence[int]
    mixed: Sequence[int]
    max_rows: int
    num_columns: int
    """Of block tables: all there are, for a graph's steps may be of any length."""

    def shapes(self) -> list[StepShape]:
        """The largest first."""
        found = [self._decode(size) for size in self.decode] + [self._mixed(size) for size in self.mixed]
        return sorted(found, key=lambda shape: shape.num_tokens, reverse=True)

    @property
    def num_graphs(self) -> int:
        """Two parts of a step each, of which the second is one for all shapes of as many rows."""
        shapes = self.shapes()
        return len(shapes) + len({shape.num_rows for shape in shapes})

    def shape_for(self, num_tokens: int, num_rows: int) -> StepShape | None:
        """The smallest captured shape that a step fits into; None where there is none."""
        is_decode = num_tokens == num_rows
        sizes = self.decode if is_decode else self.mixed
        place = bisect_left(sizes, num_tokens)
        if place == len(sizes):
            return None
        return self._decode(sizes[place]) if is_decode else self._mixed(sizes[place])

    def _decode(self, size: int) -> StepShape:
        return StepShape(size, size, size, self.num_columns)

    def _mixed(self, size: int) -> StepShape:
        return StepShape(size, min(size, self.max_rows), 0, self.num_columns)


def sizes_for(max_rows: int, max_tokens: int, num_columns: int) -> Sizes:
    return Sizes(decode_sizes(max_rows), mixed_sizes(max_tokens), max_rows, num_columns)


def reserved_bytes(sizes: Sizes, token_bytes: int) -> int:
    """What graphs are reckoned to take before they are there. token_bytes: of activations, a token."""
    shapes = sizes.shapes()
    return _GRAPH_BYTES * len(shapes) + token_bytes * shapes[0].num_tokens


class GraphMaker(Protocol):
    """Captures work of the stream that is current."""

    def capture(self, work: Callable[[], Any]) -> Replay:
        """Record what `work` hands to the device, without having it done; the result has it done."""
        ...

    def used_bytes(self) -> int:
        """Memory of the device in use."""
        ...


class RerunGraphs:
    """A CPU's: the work is done when it is replayed, with what it was captured with."""

    def capture(self, work: Callable[[], Any]) -> Replay:
        return work

    def used_bytes(self) -> int:
        return 0


class CudaGraphs:
    """Graphs that share one pool of memory: never two of them run at once, and nothing of one outlives its step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, work: Callable[[], Any]) -> Replay:
        # Once as it is: modules are loaded and libraries take their workspaces, which a capture must not see.
        work()
        torch.cuda.current_stream(self._device).synchronize()
        graph = torch.cuda.CUDAGraph()
        # Other threads may go on with what they do on the device.
        graph.capture_begin(self._pool, capture_error_mode="thread_local")
        try:
            work()
        except BaseException:
            # What ends a capture in the middle of a failure says only that: the failure itself is to be told.
            with contextlib.suppress(RuntimeError):
                graph.capture_end()
            raise
        graph.capture_end()
        return graph.replay

    def used_bytes(self) -> int:
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free


class TwoParts(Protocol):
    """Of a DeviceStep what is captured."""

    def forward(self, shape: StepShape) -> Any: ...

    def sample(self, num_rows: int) -> Any: ...


class StepReplay(NamedTuple):
    """What replays a step, one after the other."""

    shape: StepShape
    """To which its columns are padded."""
    forward: Replay
    sample: Replay


class StepGraphs:
    """The captured steps of one configuration."""

    def __init__(self, sizes: Sizes) -> None:
        self._sizes = sizes
        self._forwards: dict[StepShape, Replay] = {}
        self._samples: dict[int, Replay] = {}
        """By the number of rows."""
        self.size_bytes = 0

    def capture(self, maker: GraphMaker, stream: DeviceStream, step: TwoParts) -> None:
        """All of them; the columns must hold rows that can be computed for any shape."""
        start, before = time.perf_counter(), maker.used_bytes()
        # A collection in the middle could give back what belongs to another graph.
        gc.collect()
        gc.disable()
        try:
            with stream.issue():
                shapes = self._sizes.shapes()
                for shape in shapes:
                    self._forwards[shape] = maker.capture(lambda shape=shape: step.forward(shape))
                for rows in sorted({shape.num_rows for shape in shapes}, reverse=True):
                    self._samples[rows] = maker.capture(lambda rows=rows: step.sample(rows))
        finally:
            gc.enable()
        stream.record().wait()
        self.size_bytes = max(0, maker.used_bytes() - before)
        logger.info(
            "captured %d graphs in %.2f s, %.0f MiB",
            len(self._forwards) + len(self._samples), time.perf_counter() - start, self.size_bytes / (1 << 20),
        )  # fmt: skip

    def find(self, num_tokens: int, num_rows: int) -> StepReplay | None:
        """What a step of so many tokens and rows is padded to, and replayed by."""
        shape = self._sizes.shape_for(num_tokens, num_rows)
        return None if shape is None else StepReplay(shape, self._forwards[shape], self._samples[shape.num_rows])
