"""Mistral: every layer with a sliding window, where there is one."""

from __future__ import annotations

from ..layers.attention import Attention
from ..layers.placement import Placement
from .decoder import Decoder


class Mistral(Decoder):
    def attention(self, index: int, placement: Placement) -> Attention:
        return Attention(self.config, placement, window=self.config.layer_windows[index])
