"""What this machine has for a worker to compute with, as JSON on one line: for `quire doctor`, which imports no torch.

`python -m quire.services.worker.machine`. Looks, and starts nothing: what would have to be compiled is said, not done.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from typing import Any

import msgspec
import torch

from quire.kernels.cpu.native import build

from .device import available_bytes, has_native_bfloat16, usable_cpus


def describe() -> dict[str, Any]:
    return {
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "has_triton": importlib.util.find_spec("triton") is not None,
        "has_c_compiler": "CC" in os.environ or any(shutil.which(name) for name in ("gcc", "clang")),
        "cpus": usable_cpus(),
        "has_bfloat16": has_native_bfloat16(),
        "memory_bytes": available_bytes(torch.device("cpu")),
        "native": _native(),
        "gpus": [_gpu(index) for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else [],
    }


def _native() -> dict[str, Any]:
    """The native kernels: of which instruction set, and whether they are there or are to be compiled first."""
    levels = build.supported_levels()
    if not levels:
        return {"level": None, "state": "none", "detail": "for this CPU there are none"}
    try:
        found = build.found_library(levels[0])
        if found is not None:
            return {"level": levels[0], "state": "there", "detail": str(found)}
        return {"level": levels[0], "state": "to compile", "detail": build.compiler()}
    except build.BuildError as error:
        return {"level": levels[0], "state": "none", "detail": str(error)}


def _gpu(index: int) -> dict[str, Any]:
    free, total = torch.cuda.mem_get_info(index)
    major, minor = torch.cuda.get_device_capability(index)
    name = torch.cuda.get_device_name(index)
    return {"name": name, "capability": f"{major}.{minor}", "free_bytes": free, "total_bytes": total}


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(describe()).decode() + "\n")
