"""Qwen2 and 2.5: biases on query, key and value; a sliding window on some layers, if at all."""

from __future__ import annotations

from ..layers.attention import Attention
from ..layers.placement import Placement
from .decoder import Decoder


class Qwen2(Decoder):
    def attention(self, index: int, placement: Placement) -> Attention:
        return Attention(self.config, placement, window=self.config.layer_windows[index], has_qkv_bias=True)
