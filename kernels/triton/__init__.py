"""The Triton backend: the operations on an NVIDIA GPU; cpu/ is their specification, and serves what has no kernel.

`launches(dims)` lists every variant that a model's steps will launch, so that all can be compiled beforehand.
"""

from __future__ import annotations

from ..cpu import *  # noqa: F403
from .launch import Dims, Launch, compile_all
from .rope_and_cache import launches as rope_and_cache_launches
from .rope_and_cache import rope_and_cache

__all__ = ["Dims", "Launch", "compile_all", "launches", "rope_and_cache"]

_LAUNCHES = (rope_and_cache_launches,)
"""Of every module with kernels."""


def launches(dims: Dims) -> list[Launch]:
    """Every variant that steps of such a model launch."""
    return [launch for of_module in _LAUNCHES for launch in of_module(dims)]
