"""The device a worker computes on: which, with what type and how many threads, and how much memory it has."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch

from quire import kernels
from quire.shared.model_config import ModelConfig
from quire.shared.weight_files import TensorEntry

from .errors import DeviceError
from .layers.placement import Placement
from .tensor_parallel import ALONE, RankGroup

logger = logging.getLogger("quire.worker")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_FILE_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
_TINY_BYTES = 64 << 20
"""Of weights: the CPU's caches hold most of them."""
_NATIVE_BFLOAT16 = {"avx512_bf16", "amx_bf16"}


def choose_placement(
    device: str, dtype: str, config: ModelConfig, entries: dict[str, TensorEntry], group: RankGroup = ALONE
) -> Placement:
    """`device` auto | cpu | cuda, `dtype` auto | float32 | bfloat16 | float16. Raises DeviceError."""
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("--device cuda: torch sees no CUDA device; use --device cpu")
    is_cuda = _is_cuda(device)
    asked = _checkpoint_dtype(config, entries) if dtype == "auto" else dtype
    if dtype == "auto" and not is_cuda and sum(entry.size_bytes for entry in entries.values()) < _TINY_BYTES:
        # A tiny model gains nothing by bfloat16, and in float32 a text computed in another way is the same text.
        asked = "float32"
    chosen = asked if is_cuda else _cpu_dtype(asked, is_explicit=dtype != "auto")
    # With its number: torch's set_device takes no device without one.
    chosen_device = torch.device("cuda", torch.cuda.current_device()) if is_cuda else torch.device("cpu")
    return Placement(chosen_device, _DTYPES[chosen], group, is_deferred=is_cuda)


def choose_kernels(wanted: str, device: str) -> None:
    """`wanted` auto | torch | native, of which only a CPU knows. May compile for half a minute. Raises DeviceError."""
    if _is_cuda(device):
        return
    try:
        kernels.use(wanted)
    except kernels.BuildError as error:
        raise DeviceError(f"--kernels {wanted}: {error}") from error


def cache_dtype(wanted: str, placement: Placement) -> torch.dtype:
    """`wanted` auto | fp8, of the KV cache. Raises DeviceError."""
    if wanted == "auto":
        return placement.dtype
    if placement.device.type == "cuda" and torch.cuda.get_device_capability(placement.device) < (8, 9):
        name = torch.cuda.get_device_name(placement.device)
        raise DeviceError(f"--kv-cache-dtype fp8: {name} has no 8-bit floats (capability 8.9 has); use auto")
    return torch.float8_e4m3fn


def _is_cuda(device: str) -> bool:
    return device != "cpu" and torch.cuda.is_available()


def _checkpoint_dtype(config: ModelConfig, entries: dict[str, TensorEntry]) -> str:
    if config.dtype is not None:
        return config.dtype
    return next((_FILE_DTYPES[entry.dtype] for entry in entries.values() if entry.dtype in _FILE_DTYPES), "float32")


def _cpu_dtype(asked: str, is_explicit: bool) -> str:
    """What a CPU is fast with: never float16, and bfloat16 only where it has instructions for it."""
    if asked == "float32" or (asked == "bfloat16" and (is_explicit or has_native_bfloat16())):
        return asked
    chosen = "bfloat16" if asked == "float16" and has_native_bfloat16() else "float32"
    logger.info("%s is slow on this CPU; computing in %s", asked, chosen)
    return chosen


def has_native_bfloat16() -> bool:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.startswith("flags")), "")
    return not _NATIVE_BFLOAT16.isdisjoint(flags.split())


def choose_threads(weight_bytes: int, num_ranks: int = 1) -> int:
    """The CPUs this process may use; but one for a model so small that its products end before threads have met."""
    return 1 if weight_bytes < _TINY_BYTES else max(1, usable_cpus() // num_ranks)


def usable_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """By affinity and the cgroup's quota, of which a part of a CPU is none: who exceeds it is stopped in mid-step."""
    count = len(os.sched_getaffinity(0))
    quota = _cpu_quota(cgroup)
    return count if quota is None else max(1, min(count, int(quota)))


def _cpu_quota(cgroup: Path) -> float | None:
    """CPUs' worth of time, of cgroup v2 or v1 as a container sees it; None: all there is."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            quota, period = " ".join((cgroup / file).read_text() for file in files).split()
            if int(quota) > 0:
                return int(quota) / int(period)
        except (OSError, ValueError, ZeroDivisionError):  # no such cgroup, or "max"
            continue
    return None


def available_bytes(device: torch.device, num_ranks: int = 1) -> int:
    """Memory that can still be taken: of the GPU, or of the machine and this process's cgroups, which ranks share."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([_machine_bytes(), *_cgroup_bytes()]) // num_ranks


def _machine_bytes() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_bytes() -> list[int]:
    """What is left below each limit, of cgroup v2 or v1 as a container sees it."""
    found = []
    for limit, usage, stat, inactive in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        folder = Path("/sys/fs/cgroup")
        try:
            most, used = int((folder / limit).read_text()), int((folder / usage).read_text())
            lines = (folder / stat).read_text().splitlines()
        except (OSError, ValueError):  # no such cgroup, or "max"
            continue
        reclaimable = sum(int(line.split()[1]) for line in lines if line.split()[0] == inactive)
        found.append(max(0, most - used + reclaimable))
    return found
