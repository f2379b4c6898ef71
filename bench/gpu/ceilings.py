"""What the device can do: bytes a second of a copy, and products of bfloat16 matrices on random numbers."""

from __future__ import annotations

import torch

from .setting import Outcome, Setting
from .timing import seconds


def run(setting: Setting) -> Outcome:
    size, device = setting.sizes.gemm, setting.device
    source = torch.randn(setting.sizes.copy_bytes // 4, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / seconds(lambda: target.copy_(source), device)
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    flops = 2 * size**3 / seconds(lambda: left @ right, device)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    versions = {"torch": str(torch.__version__), "cuda": torch.version.cuda, "triton": _triton()}
    return Outcome(
        ["ceiling", "measured"],
        [["copy, GB/s read and written", bandwidth / 1e9], [f"bfloat16 product of {size}, TFLOP/s", flops / 1e12]],
        {"bytes_per_second": bandwidth, "flops": flops, "device": name, "versions": versions},
        [f"{name}; " + ", ".join(f"{what} {version}" for what, version in versions.items())],
    )


def _triton() -> str | None:
    try:
        import triton
    except ImportError:
        return None
    return triton.__version__
