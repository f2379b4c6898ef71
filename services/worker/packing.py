"""Packing a model's weights while they are loaded: each as soon as its last part is there.

So no more than one is there twice at any time. Between the loader, which says what it has filled, and the layers.
"""

from __future__ import annotations

import logging

import torch

from quire import kernels

from .errors import DeviceError
from .layers.placement import Placement, Targets, unpacked
from .models.decoder import Decoder

logger = logging.getLogger("quire.worker")


class Packing:
    """Of a model whose tensors are made; `settle` is called for each target, and `filled` when it has its content."""

    def __init__(
        self, model: Decoder, targets: Targets, choice: kernels.LinearChoice, placement: Placement | None = None
    ) -> None:
        self._placement = placement
        self._choice = choice
        self._model = model
        self._linears = {_storage(linear.weight): linear for linear in model.linears()}
        self._storages = {name: _storage(target) for name, target in targets.items()}
        self._missing = dict.fromkeys(self._linears, 0)
        self._plain_bytes = 0
        for name, target in targets.items():
            if self._storages[name] in self._missing:
                self._missing[self._storages[name]] += 1
            else:
                self._plain_bytes += target.nbytes

    def settle(self, name: str, target: torch.Tensor) -> torch.Tensor:
        """Where a target's content goes: itself, or its part of memory that is taken for the first part of a weight."""
        if not target.is_meta:
            return target
        if self._placement is None:
            raise TypeError(f"{name} has no memory and no placement to take it from")
        linear = self._linears[self._storages[name]]
        weight = unpacked(linear.weight)
        if weight.is_meta:
            linear.weight = weight = self._placement.empty(*weight.shape)
        return weight.as_strided(target.shape, target.stride(), target.storage_offset())

    def filled(self, name: str) -> None:
        """A target has its content, and nobody holds it but its layer."""
        storage = self._storages[name]
        if storage in self._missing:
            self._missing[storage] -= 1
            if not self._missing[storage]:
                self._linears.pop(storage).pack(self._choice)

    def weight_bytes(self) -> int:
        """What the weights take once all are packed."""
        packed = sum(linear.weight.nbytes for linear in self._model.linears())
        embedding = self._model.embedding.weight
        is_twice = self._model.config.tie_word_embeddings and isinstance(embedding, torch.Tensor)
        return self._plain_bytes + packed + (embedding.nbytes if is_twice else 0)


def choose_linear(model: Decoder, placement: Placement, wanted: str, quantization: str) -> kernels.LinearChoice:
    """What multiplies the layers of a model not packed yet, by --linear and --quantization. Raises DeviceError."""
    weights = [linear.weight for linear in model.linears() if linear is not model.head]
    shapes = {(weight.shape[0], weight.shape[1]) for weight in weights if isinstance(weight, torch.Tensor)}
    try:
        choice = kernels.choose_linear(shapes, placement.device, placement.dtype, wanted, quantization)
    except ValueError as error:
        raise DeviceError(f"--linear {wanted} --quantization {quantization}: {error}") from error
    logger.info("linear layers: %s", choice.summary)
    return choice


def _storage(weight: torch.Tensor | kernels.PackedWeight) -> int:
    """What a weight and its parts have in common, with memory or without."""
    return unpacked(weight).untyped_storage()._cdata
