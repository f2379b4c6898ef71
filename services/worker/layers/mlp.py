"""The gated MLP of a decoder layer: down(act(gate(x)) * up(x))."""

from __future__ import annotations

import torch

from quire import kernels
from quire.shared.model_config import ModelConfig

from .linear import Activations, Linear
from .placement import Placement, Targets


class GatedMLP:
    """hidden [T, hidden_size] -> the same."""

    def __init__(self, config: ModelConfig, placement: Placement, has_bias: bool = False) -> None:
        sizes = {"gate_proj": config.intermediate_size, "up_proj": config.intermediate_size}
        self.gate_up = Linear(placement, config.hidden_size, sizes, has_bias)
        sizes = {"down_proj": config.hidden_size}
        self.down = Linear(placement, config.intermediate_size, sizes, has_bias, is_sum=True)
        self._activation = config.hidden_act
        self.is_fp8 = False

    def __call__(self, hidden: Activations) -> torch.Tensor:
        if self.is_fp8:
            return self.down(kernels.gated_activation_fp8(self.gate_up(hidden), self._activation))
        return self.down(kernels.gated_activation(self.gate_up(hidden), self._activation))

    def linears(self) -> list[Linear]:
        return [self.gate_up, self.down]

    def targets(self) -> Targets:
        return {**self.gate_up.targets(), **self.down.targets()}
