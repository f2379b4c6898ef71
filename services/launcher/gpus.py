"""The GPUs of this machine, as far as can be known without a library: how many, and which one a rank gets.

CUDA_VISIBLE_DEVICES is heeded as CUDA does: it names the GPUs that may be used, in their order.
"""

from __future__ import annotations

import os
from pathlib import Path

_VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(driver: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Numbers or names of the GPUs that may be used; empty where there is none."""
    given = os.environ.get(_VARIABLE)
    if given is None:
        return [str(number) for number in range(len(list(driver.glob("*"))))]
    named = [name.strip() for name in given.split(",")]
    # What comes after a number that is none is not seen by CUDA either.
    end = next((index for index, name in enumerate(named) if name in ("", "-1")), len(named))
    return named[:end]


def gpu_of_rank(rank: int) -> dict[str, str]:
    """The variable that leaves a worker the GPU of its rank; nothing where there is no such GPU."""
    visible = visible_gpus()
    return {_VARIABLE: visible[rank]} if rank < len(visible) else {}
