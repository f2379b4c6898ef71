"""Llama 2, 3 and 3.x: the plain decoder; biases where config.json asks for them."""

from __future__ import annotations

from ..layers.attention import Attention
from ..layers.mlp import GatedMLP
from ..layers.placement import Placement
from .decoder import Decoder


class Llama(Decoder):
    def attention(self, index: int, placement: Placement) -> Attention:
        has_bias = self.config.attention_bias
        return Attention(self.config, placement, has_qkv_bias=has_bias, has_output_bias=has_bias)

    def mlp(self, placement: Placement) -> GatedMLP:
        return GatedMLP(self.config, placement, has_bias=self.config.mlp_bias)
