"""The model families, by the architecture that config.json names."""

from __future__ import annotations

from quire.shared.model_config import ModelConfig

from ..layers.placement import Placement
from .decoder import Decoder
from .llama import Llama
from .mistral import Mistral
from .qwen2 import Qwen2
from .qwen3 import Qwen3

REGISTRY: dict[str, type[Decoder]] = {
    "LlamaForCausalLM": Llama,
    "MistralForCausalLM": Mistral,
    "Qwen2ForCausalLM": Qwen2,
    "Qwen3ForCausalLM": Qwen3,
}


def build_model(config: ModelConfig, placement: Placement) -> Decoder:
    """The model with its tensors made but not filled; see weights.py."""
    return REGISTRY[config.architecture](config, placement)
