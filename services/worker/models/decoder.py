"""The decoder all families share: embedding, layers of attention and MLP, final norm, head.

A family is a subclass that says what its layers are made of. Pre-norm with a running residual:
each norm adds what came before it.
"""

from __future__ import annotations

import torch

from quire.shared.model_config import ModelConfig

from ..attention_metadata import AttentionMetadata
from ..kv_cache import KVCache
from ..layers.attention import Attention
from ..layers.embedding import Embedding, Head
from ..layers.linear import Activations, Linear
from ..layers.mlp import GatedMLP
from ..layers.norm import RMSNorm
from ..layers.placement import Placement, Targets, prefixed


class DecoderLayer:
    """One attention and one MLP, each behind its norm."""

    def __init__(self, config: ModelConfig, placement: Placement, attention: Attention, mlp: GatedMLP) -> None:
        self.input_norm = RMSNorm(placement, config.hidden_size, config.rms_norm_eps)
        self.attention = attention
        self.mlp_norm = RMSNorm(placement, config.hidden_size, config.rms_norm_eps)
        self.mlp = mlp

    def forward(
        self,
        normed: Activations,
        residual: torch.Tensor,
        metadata: AttentionMetadata,
        caches: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        """normed, residual [T, hidden_size], the second changed in place. Returns the MLP's output."""
        attended = self.attention(normed, metadata, *caches)
        return self.mlp(self.mlp_norm.add(attended, residual))

    def targets(self, prefix: str) -> Targets:
        return prefixed(
            prefix,
            ("input_layernorm", self.input_norm.targets()),
            ("self_attn", self.attention.targets()),
            ("post_attention_layernorm", self.mlp_norm.targets()),
            ("mlp", self.mlp.targets()),
        )


class Decoder:
    """input_ids -> hidden states -> logits. Subclasses say what a layer is."""

    def __init__(self, config: ModelConfig, placement: Placement) -> None:
        self.config = config
        self.embedding = Embedding(placement, config.vocab_size, config.hidden_size)
        self.layers = [
            DecoderLayer(config, placement, self.attention(index, placement), self.mlp(placement))
            for index in range(config.num_hidden_layers)
        ]
        self.norm = RMSNorm(placement, config.hidden_size, config.rms_norm_eps)
        tied = self.embedding if config.tie_word_embeddings else None
        self.head = Head(placement, config.vocab_size, config.hidden_size, tied)

    def attention(self, index: int, placement: Placement) -> Attention:
        raise NotImplementedError

    def mlp(self, placement: Placement) -> GatedMLP:
        return GatedMLP(self.config, placement)

    def forward(self, input_ids: torch.Tensor, metadata: AttentionMetadata, kv_cache: KVCache) -> torch.Tensor:
        """input_ids int32 [T] -> final hidden states [T, hidden_size]; the KV of all T is written on the way."""
        residual = self.embedding(input_ids)
        normed = self.layers[0].input_norm(residual)
        following = [layer.input_norm for layer in self.layers[1:]]
        for layer, norm, caches in zip(self.layers, [*following, self.norm], kv_cache.layers, strict=True):
            normed = norm.add(layer.forward(normed, residual, metadata, caches), residual)
        if not isinstance(normed, torch.Tensor):
            raise TypeError("the head takes no quantised rows")
        return normed

    def compute_logits(self, hidden: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """[N, hidden_size] -> [N, vocab_size] of `dtype`."""
        return self.head(hidden, dtype)

    def quantize_activations(self) -> None:
        """From now on linears of layers, packed to fp8, read what norms and activations have quantised on their way."""
        for layer in self.layers:
            layer.input_norm.is_fp8 = layer.mlp_norm.is_fp8 = layer.mlp.is_fp8 = True

    def linears(self) -> list[Linear | Head]:
        """Whatever has a weight to pack."""
        found = [linear for layer in self.layers for linear in (*layer.attention.linears(), *layer.mlp.linears())]
        return [*found, self.head]

    def targets(self) -> Targets:
        """Every weight by its name in the checkpoint."""
        found = prefixed("model", ("embed_tokens", self.embedding.targets()), ("norm", self.norm.targets()))
        for index, layer in enumerate(self.layers):
            found.update(layer.targets(f"model.layers.{index}"))
        found.update({f"lm_head.{name}": tensor for name, tensor in self.head.targets().items()})
        return found
