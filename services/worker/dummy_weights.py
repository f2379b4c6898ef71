"""Random weights in place of a checkpoint's, for measuring: a folder with config.json alone then serves.

Drawn on the device, of the size that a freshly initialised model's are, and the same at every start. Never zeros:
a GPU multiplies those with less power and higher clocks than numbers of a model.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path

import torch

from quire.shared.model_config import ModelConfig
from quire.shared.weight_files import TensorEntry

from .layers.placement import Placement, Targets
from .models import build_model

_DEVIATION = 0.02
"""Of matrices and biases, as transformers initialises the families; norms' weights are as far from 1."""
_FILE_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", None: "BF16"}
_TYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


def dummy_entries(config: ModelConfig) -> dict[str, TensorEntry]:
    """What the headers of such a checkpoint's files would say; of no file."""
    spelled = _FILE_DTYPES[config.dtype]
    targets = build_model(config, Placement(torch.device("meta"), _TYPES[spelled])).targets()
    return {
        name: TensorEntry(Path("/dev/null"), spelled, tuple(target.shape), 0, target.nbytes)
        for name, target in targets.items()
    }


def fill_with_dummies(
    targets: Targets,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    on_filled: Callable[[str], None] = lambda name: None,
    settle: Callable[[str, torch.Tensor], torch.Tensor] = lambda name, target: target,
) -> None:
    """As load_weights, without files. A tensor's numbers depend on its name, its shape and the kind of device alone."""
    total = sum(target.nbytes for target in targets.values())
    done = 0
    for name in list(targets):
        target = settle(name, targets.pop(name))
        generator = torch.Generator(target.device).manual_seed(zlib.crc32(name.encode()))
        mean = 1.0 if name.endswith("norm.weight") else 0.0
        target.copy_(torch.empty_like(target).normal_(mean, _DEVIATION, generator=generator))
        done += target.nbytes
        del target
        on_filled(name)
        on_progress(done, total)
