"""Qwen3: queries and keys are normed per head; a sliding window on some layers, if at all."""

from __future__ import annotations

from ..layers.attention import Attention
from ..layers.placement import Placement
from .decoder import Decoder


class Qwen3(Decoder):
    def attention(self, index: int, placement: Placement) -> Attention:
        has_bias = self.config.attention_bias
        return Attention(
            self.config,
            placement,
            window=self.config.layer_windows[index],
            has_qkv_bias=has_bias,
            has_output_bias=has_bias,
            has_qk_norm=True,
        )
