"""Tiny random checkpoints of every family, written by transformers with a fixed seed.

Their weights are spread wide enough that greedy choices are never near a tie, and norms and biases
are random too, so that a forgotten one shows.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

import quire.shared

DEMO_MODEL = Path(quire.shared.__path__[0]) / "demo_model"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
VOCAB_SIZE = 384

_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": None,
    "tie_word_embeddings": False,
    "initializer_range": 0.2,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama 2": ("LlamaForCausalLM", {"num_key_value_heads": 4}),
    "llama 3": ("LlamaForCausalLM", {"rope_parameters": _LLAMA3, "tie_word_embeddings": True}),
    "mistral": ("MistralForCausalLM", {"head_dim": 24, "sliding_window": 20}),
    "qwen2": ("Qwen2ForCausalLM", {}),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 32, "tie_word_embeddings": True}),
}
"""Name -> architecture and what is special in its config."""
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama with biases": ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True}),
    "llama linear": (
        "LlamaForCausalLM",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
    ),
    "llama dynamic": (
        "LlamaForCausalLM",
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}},
    ),
    "llama gelu": ("LlamaForCausalLM", {"hidden_act": "gelu_pytorch_tanh"}),
    "mistral without window": ("MistralForCausalLM", {"sliding_window": None}),
    "qwen2 yarn": ("Qwen2ForCausalLM", {"rope_parameters": _YARN}),
    "qwen2 with windows": (
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1},
    ),
    "qwen3 with biases": ("Qwen3ForCausalLM", {"head_dim": 16, "attention_bias": True}),
}
"""The same for what a family can also be."""


def make_checkpoint(
    family: str,
    folder: Path,
    *,
    seed: int = 0,
    vocab_size: int = VOCAB_SIZE,
    dtype: str = "float32",
    is_sharded: bool = False,
    has_tokenizer: bool = False,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Write one, unless the folder already has it. `config` overrides fields of config.json.

    has_tokenizer: with the demo model's tokenizer, whose ids it then has room for; without, it has no EOS.
    """
    if (folder / "config.json").exists():
        return folder
    architecture, special = (FAMILIES | VARIANTS)[family]
    if has_tokenizer:
        vocab_size = max(vocab_size, 2048)
    eos = {"eos_token_id": 2} if has_tokenizer else {}
    fields = {**_SIZES, "vocab_size": vocab_size, **eos, **special, **(config or {})}
    kind = getattr(transformers, architecture)
    torch.manual_seed(seed)
    model = kind(kind.config_class(**fields)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.normal_(1.0, 0.2)
            elif name.endswith("bias"):
                parameter.normal_(0.0, 0.2)
    model.to(DTYPES[dtype]).save_pretrained(folder, max_shard_size="64KB" if is_sharded else "1GB")
    if has_tokenizer:
        for name in TOKENIZER_FILES:
            if (DEMO_MODEL / name).exists():
                shutil.copy(DEMO_MODEL / name, folder / name)
    return folder


def load_reference(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """The same checkpoint in transformers."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
