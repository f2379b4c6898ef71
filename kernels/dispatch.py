"""The choice of a backend for each call: by the device its tensors lie on, and by what was asked for.

A backend is a module with the functions of kernels/__init__.py under the same names. The torch
backend (cpu/) runs on every device and is what another backend must equal; it serves the CPU until `use`
is called, and a GPU where there is no triton.
"""

from __future__ import annotations

import logging
from types import ModuleType

import torch

from . import cpu
from .cpu import native
from .cpu.native import library, self_test
from .cpu.native.build import BuildError

logger = logging.getLogger("quire.kernels")

_backends: dict[str, ModuleType] = {"cpu": cpu}
_names: dict[str, str] = {"cpu": "torch"}


def serve_gpu() -> None:
    """Choose what computes on a GPU: Triton's kernels where they can be imported, which takes a second."""
    _backends["cuda"], _names["cuda"] = cpu, "torch"
    if not torch.cuda.is_available():
        return
    try:
        from . import triton
    except ImportError as error:
        logger.warning("computing with torch's kernels, not Triton's: %s", error)
    else:
        _backends["cuda"], _names["cuda"] = triton, "triton"


serve_gpu()


def backend_of(tensor: torch.Tensor) -> ModuleType:
    """The module that computes where `tensor` lies."""
    return _backends[tensor.device.type]


def backend_for(device: torch.device) -> ModuleType:
    """The module that computes on a device; of one that serves nothing (meta) torch's."""
    return _backends.get(device.type, cpu)


def backend_name(device_type: str) -> str:
    """What serves a device, for people: torch, torch (no g++), native (avx512)."""
    return _names[device_type]


def can_be_captured(device: torch.device, head_dim: int, dtype: torch.dtype, cache_dtype: torch.dtype) -> bool:
    """Whether a step's operations never wait for the device, so that a graph may hold them."""
    attends = getattr(backend_for(device), "attends", None)
    return device.type == "cpu" or (attends is not None and attends(head_dim, dtype, cache_dtype))


def use(wanted: str) -> str:
    """Compute on the CPU with `wanted` kernels from now on: torch, native, or auto (native where they can be had).

    Weights that another backend has packed must not be used after that. Returns the backend's name.
    Raises BuildError where native ones are asked for and cannot be had.
    """
    if wanted == "torch":
        _backends["cpu"], _names["cpu"] = cpu, "torch"
        return _names["cpu"]
    try:
        level = library.load()
        self_test.run()
    except BuildError as error:
        if wanted == "native":
            raise
        severity = logging.WARNING if isinstance(error, self_test.SelfTestError) else logging.INFO
        logger.log(severity, "computing with torch's kernels, not native ones: %s", error)
        _backends["cpu"], _names["cpu"] = cpu, f"torch ({error.brief})"
    else:
        _backends["cpu"], _names["cpu"] = native, f"native ({level})"
    return _names["cpu"]
