"""The choice of a backend for each call: by the device its tensors lie on.

A backend is a module with the functions of kernels/__init__.py under the same names. The torch
backend (cpu/) runs on every device and is what another backend must equal.
"""

from __future__ import annotations

from types import ModuleType

import torch

from . import cpu

_backends: dict[str, ModuleType] = {"cpu": cpu, "cuda": cpu}
_names: dict[str, str] = {"cpu": "torch", "cuda": "torch"}


def backend_of(tensor: torch.Tensor) -> ModuleType:
    """The module that computes where `tensor` lies."""
    return _backends[tensor.device.type]


def backend_name(device_type: str) -> str:
    """What serves a device, for people: torch."""
    return _names[device_type]
