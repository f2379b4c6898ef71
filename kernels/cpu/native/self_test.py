"""The check of a library just loaded: every native operation once against torch, on tiny shapes.

A compiler's fault, or a CPU that does not do what it says, is then known before any request is. Each
module of operations brings its own `check`, which raises what its message says of the difference.
"""

from __future__ import annotations

import torch

from . import attention, elementwise, grammar, linear_bfloat16, linear_int8, sampling
from .build import BuildError

MODULES = (attention, elementwise, grammar, linear_bfloat16, linear_int8, sampling)
"""Modules with a `check() -> None` that raises AssertionError; a few ms each at most."""


class SelfTestError(BuildError):
    """The library computes something else than torch does."""


@torch.inference_mode()
def run() -> None:
    """Raises SelfTestError."""
    for module in MODULES:
        try:
            module.check()
        except AssertionError as error:
            name = module.__name__.rpartition(".")[2]
            raise SelfTestError("self-test failed", f"native {name} differs from torch: {error}") from error
