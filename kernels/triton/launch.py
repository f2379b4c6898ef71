"""Launches: a Triton kernel with its arguments, constants and warps, to be run or only compiled.

Every operation builds its launches in one function that takes tensors when it runs, and their dtypes when
`launches(dims)` lists what a model will launch. So the worker can compile every variant before it is ready,
and the tests can compile them for sm_90 on a machine without a GPU. Knows no operation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Literal, NamedTuple

import torch

from ..dims import Dims as Dims

Trait = Literal["wgmma", "mma", "wide loads"]
"""What the compile gate looks for in a kernel's machine code: warp-group or warp matrix products, 16-byte loads."""

_NUM_PROCESSORS = 132
"""Of an H100 or H200; assumed where a kernel is compiled or interpreted without a GPU."""


def ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)


def next_power_of_2(number: int) -> int:
    """The smallest that is not below `number`. (Triton's own gives the compiler's type, not int.)"""
    return 1 << (number - 1).bit_length() if number > 1 else 1


class Launch(NamedTuple):
    """One launch, or (with dtypes in place of tensors) one variant that will be launched.

    An integer argument is compiled in when it is 1 and noted when it is a multiple of 16, and so is a
    pointer's alignment: kernels name what varies from step to step in `do_not_specialize` and
    `do_not_specialize_on_alignment`, so that no step compiles anything.
    """

    kernel: Any
    """What triton.jit made."""
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    """In the kernel's order: tensors (or dtypes), integers, floats."""
    constants: dict[str, Any]
    """The tl.constexpr parameters."""
    num_warps: int = 4
    num_stages: int = 3
    expects: tuple[Trait, ...] = ()

    def run(self) -> None:
        try:
            self.kernel[self.grid](*self.arguments, **self.constants, **self._options())
        except SystemError:  # see _made; weights are quantised, by kernels of their own, while others are compiled
            self.kernel[self.grid](*self.arguments, **self.constants, **self._options())

    def compile(self) -> Any:
        """The compiled kernel, from the disk cache where it is there; launches nothing."""
        return self.kernel.warmup(*self.arguments, grid=self.grid, **self.constants, **self._options())

    def load(self) -> Any:
        """The compiled kernel, on the GPU that is current and ready to be launched: else its first launch, which may be
        a graph's, builds a launcher with the C compiler and loads the machine code.
        """
        kernel = self.compile()
        _ = kernel.run
        return kernel

    def _options(self) -> dict[str, Any]:
        # Products and sums are fused whatever the version of Triton does by itself.
        return {"num_warps": self.num_warps, "num_stages": self.num_stages, "enable_fp_fusion": True}


def compile_all(launches: Sequence[Launch], num_threads: int) -> list[Any]:
    """The compiled kernels, in order. The compiler works outside of Python's lock, so threads help."""
    return _all(launches, Launch.compile, num_threads)


def load_all(launches: Sequence[Launch], num_threads: int, begin: Callable[[], None]) -> list[Any]:
    """The same, loaded to the GPU that is current in each thread, where `begin` is called before all else."""
    return _all(launches, Launch.load, num_threads, begin)


def _all(
    launches: Sequence[Launch],
    make: Callable[[Launch], Any],
    num_threads: int,
    begin: Callable[[], None] = lambda: None,
) -> list[Any]:
    with ThreadPoolExecutor(num_threads, "compiling", begin) as pool:
        found = list(pool.map(lambda launch: _made(launch, make), launches))
    return [make(launch) if kernel is None else kernel for launch, kernel in zip(launches, found, strict=True)]


def _made(launch: Launch, make: Callable[[Launch], Any]) -> Any:
    """None where Python's parser, to which Triton gives the source, counted the depth of two threads' trees as one."""
    try:
        return make(launch)
    except SystemError:
        return None


@cache
def num_processors(device: torch.device) -> int:
    """Streaming multiprocessors of a device."""
    if device.type != "cuda":
        return _NUM_PROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count
