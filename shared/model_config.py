"""A model's dimensions and variations, from config.json in any of its spellings to one typed value.

Follows transformers, including each family's defaults for what a file leaves out.
Knows no files: model_files.py reads them.
"""

from __future__ import annotations

from typing import Any

import msgspec

from .model_errors import ModelFilesError


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True):
    """How rotary frequencies are stretched; unused numbers are None."""

    rope_type: str = "default"
    """default | linear | dynamic | yarn | llama3."""
    factor: float | None = None
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker builds a model from; biases are as the file says, and each family knows whether it heeds them."""

    architecture: str
    model_type: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    max_model_len: int
    """Longest prompt + output the checkpoint is made for (yarn reaches beyond max_position_embeddings)."""
    rope_theta: float
    rope_scaling: RopeScaling
    layer_windows: tuple[int | None, ...]
    """Sliding window of each layer: a token sees this many tokens, itself included. None: all."""
    tie_word_embeddings: bool
    rms_norm_eps: float
    attention_bias: bool
    mlp_bias: bool
    hidden_act: str
    dtype: str | None
    """float32 | bfloat16 | float16; None when the file does not say."""
    eos_token_ids: list[int]


class _Family(msgspec.Struct, frozen=True, kw_only=True):
    """What transformers takes for absent fields of one architecture."""

    model_type: str
    num_key_value_heads: int | None = None
    """None: as many as query heads."""
    head_dim: int | None = None
    """None: hidden_size / heads."""
    max_position_embeddings: int
    sliding_window: int | None = None


_FAMILIES = {
    "LlamaForCausalLM": _Family(model_type="llama", max_position_embeddings=2048),
    "MistralForCausalLM": _Family(
        model_type="mistral", num_key_value_heads=8, max_position_embeddings=131072, sliding_window=4096
    ),
    "Qwen2ForCausalLM": _Family(
        model_type="qwen2",
        num_key_value_heads=32,
        max_position_embeddings=32768,
        sliding_window=4096,
    ),
    "Qwen3ForCausalLM": _Family(
        model_type="qwen3",
        num_key_value_heads=32,
        head_dim=128,
        max_position_embeddings=32768,
        sliding_window=4096,
    ),
}

_MAX_LAYERS = 4096
_MAX_DIMENSION = (1 << 31) - 1

SUPPORTED_ARCHITECTURES = tuple(_FAMILIES)

_DTYPES = ("float32", "bfloat16", "float16")
_ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "gelu_new")
_SCALINGS = ("default", "linear", "dynamic", "yarn", "llama3")


class _RawRope(msgspec.Struct):
    """rope_scaling, or rope_parameters of transformers 5."""

    rope_type: str | None = None
    type: str | None = None
    rope_theta: float | None = None
    factor: float | None = None
    original_max_position_embeddings: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


class RawConfig(msgspec.Struct):
    """config.json as it lies there; unknown fields are ignored."""

    architectures: list[str] | None = None
    model_type: str | None = None
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_hidden_layers: int | None = None
    num_attention_heads: int | None = None
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    intermediate_size: int | None = None
    max_position_embeddings: int | None = None
    original_max_position_embeddings: int | None = None
    rope_theta: float | None = None
    rope_scaling: _RawRope | None = None
    rope_parameters: _RawRope | None = None
    sliding_window: int | None | msgspec.UnsetType = msgspec.UNSET
    use_sliding_window: bool = False
    max_window_layers: int = 28
    layer_types: list[str] | None = None
    tie_word_embeddings: bool = False
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    mlp_bias: bool = False
    hidden_act: str = "silu"
    torch_dtype: str | None = None
    dtype: str | None = None
    eos_token_id: int | list[int] | None = None
    quantization_config: dict[str, Any] | None = None


def resolve(raw: RawConfig, source: str) -> ModelConfig:
    """Fill in what the file leaves to its family. `source` names the file. Raises ModelFilesError."""
    architecture = (raw.architectures or ["(none)"])[0]
    family = _FAMILIES.get(architecture)
    if family is None:
        supported = ", ".join(SUPPORTED_ARCHITECTURES)
        raise ModelFilesError(f"architecture {architecture} ({source}) is not supported; supported are {supported}")
    if raw.quantization_config is not None:
        method = raw.quantization_config.get("quant_method", "unknown method")
        raise ModelFilesError(f"{source}: quantized checkpoints ({method}) are not supported")
    num_heads = _required(raw.num_attention_heads, "num_attention_heads", source)
    hidden_size = _required(raw.hidden_size, "hidden_size", source)
    max_position_embeddings = raw.max_position_embeddings or family.max_position_embeddings
    rope_theta, scaling = _rope(raw, max_position_embeddings, source)
    num_layers = _required(raw.num_hidden_layers, "num_hidden_layers", source)
    if not 1 <= num_layers <= _MAX_LAYERS:
        raise ModelFilesError(f"{source}: num_hidden_layers is {num_layers}; 1 to {_MAX_LAYERS} are possible")
    config = ModelConfig(
        architecture=architecture,
        model_type=family.model_type,
        vocab_size=_required(raw.vocab_size, "vocab_size", source),
        hidden_size=hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=num_heads,
        num_key_value_heads=raw.num_key_value_heads or family.num_key_value_heads or num_heads,
        head_dim=raw.head_dim or family.head_dim or hidden_size // num_heads,
        intermediate_size=_required(raw.intermediate_size, "intermediate_size", source),
        max_position_embeddings=max_position_embeddings,
        max_model_len=_longest(max_position_embeddings, scaling),
        rope_theta=rope_theta,
        rope_scaling=scaling,
        layer_windows=_windows(raw, family, num_layers, source),
        tie_word_embeddings=raw.tie_word_embeddings,
        rms_norm_eps=raw.rms_norm_eps,
        attention_bias=raw.attention_bias,
        mlp_bias=raw.mlp_bias,
        hidden_act=_one_of(raw.hidden_act, _ACTIVATIONS, "hidden_act", source),
        dtype=_dtype(raw, source),
        eos_token_ids=[] if raw.eos_token_id is None else _as_list(raw.eos_token_id),
    )
    _check_dimensions(config, source)
    return config


def _required(value: int | None, name: str, source: str) -> int:
    if value is None:
        raise ModelFilesError(f"{source} has no {name}")
    return value


def _one_of(value: str, known: tuple[str, ...], name: str, source: str) -> str:
    if value not in known:
        raise ModelFilesError(f"{source}: {name} {value!r} is not supported; supported are {', '.join(known)}")
    return value


def _as_list(ids: int | list[int]) -> list[int]:
    return ids if isinstance(ids, list) else [ids]


def _dtype(raw: RawConfig, source: str) -> str | None:
    name = raw.dtype or raw.torch_dtype
    return None if name is None else _one_of(name.removeprefix("torch."), _DTYPES, "dtype", source)


def _rope(raw: RawConfig, max_position_embeddings: int, source: str) -> tuple[float, RopeScaling]:
    given = raw.rope_scaling or raw.rope_parameters or _RawRope()
    theta = given.rope_theta or raw.rope_theta or 10000.0
    rope_type = _one_of(given.rope_type or given.type or "default", _SCALINGS, "rope_type", source)
    original = raw.original_max_position_embeddings or given.original_max_position_embeddings
    if rope_type in ("llama3", "yarn"):
        original = original or max_position_embeddings
    scaling = RopeScaling(
        rope_type=rope_type,
        factor=given.factor,
        original_max_position_embeddings=None if original is None else int(original),
        low_freq_factor=given.low_freq_factor,
        high_freq_factor=given.high_freq_factor,
        attention_factor=given.attention_factor,
        beta_fast=given.beta_fast,
        beta_slow=given.beta_slow,
        mscale=given.mscale,
        mscale_all_dim=given.mscale_all_dim,
        truncate=given.truncate,
    )
    needed = {
        "linear": ("factor",),
        "dynamic": ("factor",),
        "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    }
    for name in needed.get(rope_type, ()):
        if not getattr(scaling, name):
            raise ModelFilesError(f"{source}: rope scaling {rope_type} has no {name}")
    return theta, scaling


def _longest(max_position_embeddings: int, scaling: RopeScaling) -> int:
    # Dynamic scaling only differs from none beyond max_position_embeddings, where its frequencies, and so
    # every cached key, would depend on the length of whatever else is in the batch: it is not used there.
    if scaling.rope_type == "yarn" and scaling.factor and scaling.original_max_position_embeddings:
        return max(max_position_embeddings, int(scaling.factor * scaling.original_max_position_embeddings))
    return max_position_embeddings


def _windows(raw: RawConfig, family: _Family, num_layers: int, source: str) -> tuple[int | None, ...]:
    if family.sliding_window is None:
        return (None,) * num_layers
    window = family.sliding_window if raw.sliding_window is msgspec.UNSET else raw.sliding_window
    if family.model_type == "mistral":
        return (window,) * num_layers
    if not raw.use_sliding_window or window is None:
        return (None,) * num_layers
    if raw.layer_types is None:
        return tuple(window if layer >= raw.max_window_layers else None for layer in range(num_layers))
    if len(raw.layer_types) != num_layers:
        raise ModelFilesError(f"{source}: {len(raw.layer_types)} layer_types for {num_layers} layers")
    for name in raw.layer_types:
        _one_of(name, ("full_attention", "sliding_attention"), "layer_types", source)
    return tuple(window if name == "sliding_attention" else None for name in raw.layer_types)


def _check_dimensions(config: ModelConfig, source: str) -> None:
    sizes = (
        "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size"
        " max_position_embeddings"
    )
    for name in sizes.split():
        if not 1 <= getattr(config, name) <= _MAX_DIMENSION:
            raise ModelFilesError(f"{source}: {name} is {getattr(config, name)}")
    if config.num_attention_heads % config.num_key_value_heads:
        raise ModelFilesError(
            f"{source}: {config.num_attention_heads} attention heads are no multiple of"
            f" {config.num_key_value_heads} key-value heads"
        )
    if config.head_dim % 2:
        raise ModelFilesError(f"{source}: head_dim {config.head_dim} is odd")
    if any(window is not None and window < 1 for window in config.layer_windows):
        raise ModelFilesError(f"{source}: sliding_window must be positive")
