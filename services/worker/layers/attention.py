"""Self-attention of a decoder layer: projections, rotary embedding, cache write, paged attention."""

from __future__ import annotations

import torch

from quire import kernels
from quire.shared.model_config import ModelConfig

from ..attention_metadata import AttentionMetadata
from .linear import Activations, Linear
from .norm import RMSNorm
from .placement import Placement, Targets


class Attention:
    """hidden [T, hidden_size] -> the same. `window`: tokens a token sees, itself included; None: all."""

    def __init__(
        self,
        config: ModelConfig,
        placement: Placement,
        window: int | None = None,
        has_qkv_bias: bool = False,
        has_output_bias: bool = False,
        has_qk_norm: bool = False,
    ) -> None:
        q_size = config.num_attention_heads * config.head_dim
        kv_size = config.num_key_value_heads * config.head_dim
        sizes = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
        self.qkv = Linear(placement, config.hidden_size, sizes, has_qkv_bias)
        self.output = Linear(placement, q_size, {"o_proj": config.hidden_size}, has_output_bias, is_sum=True)
        self.q_norm = RMSNorm(placement, config.head_dim, config.rms_norm_eps) if has_qk_norm else None
        self.k_norm = RMSNorm(placement, config.head_dim, config.rms_norm_eps) if has_qk_norm else None
        self._epsilon = config.rms_norm_eps
        self._scale = config.head_dim**-0.5
        self._window = window

    def __call__(
        self, hidden: Activations, metadata: AttentionMetadata, key_cache: torch.Tensor, value_cache: torch.Tensor
    ) -> torch.Tensor:
        q = kernels.rope_and_cache(
            self.qkv(hidden),
            None if self.q_norm is None else self.q_norm.weight,
            None if self.k_norm is None else self.k_norm.weight,
            self._epsilon,
            metadata.cos_sin,
            metadata.positions,
            metadata.slot_mapping,
            key_cache,
            value_cache,
        )
        out = kernels.paged_attention(q, key_cache, value_cache, metadata.batch, self._scale, self._window)
        return self.output(out.view(out.shape[0], -1))

    def linears(self) -> list[Linear]:
        return [self.qkv, self.output]

    def targets(self) -> Targets:
        found = {**self.qkv.targets(), **self.output.targets()}
        for name, norm in (("q_norm", self.q_norm), ("k_norm", self.k_norm)):
            if norm is not None:
                found[f"{name}.weight"] = norm.weight
        return found
