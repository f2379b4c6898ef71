"""The rotary embedding's table of cosines and sines, with every scaling the supported families use.

Made once a model; the rotation itself is kernels.rope_and_cache. The formulas follow transformers'
modeling_rope_utils: linear (kaiokendev), yarn (Peng et al. 2023), llama3 (Llama 3.1).
"""

from __future__ import annotations

import math

import torch

from quire.shared.model_config import ModelConfig, RopeScaling


def cos_sin_table(config: ModelConfig, num_positions: int, device: torch.device) -> torch.Tensor:
    """float32 [num_positions, head_dim]: cosines of the head_dim / 2 angles, then their sines."""
    frequencies, factor = scaled_frequencies(config)
    angles = torch.arange(num_positions, dtype=torch.float32)[:, None] * frequencies
    return torch.cat((angles.cos() * factor, angles.sin() * factor), dim=-1).to(device)


def scaled_frequencies(config: ModelConfig) -> tuple[torch.Tensor, float]:
    """Angle per position, float32 [head_dim / 2], and what cosines and sines are multiplied by."""
    scaling, dim = config.rope_scaling, config.head_dim
    exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
    plain = 1.0 / (config.rope_theta**exponents)
    match scaling.rope_type:
        case "linear":
            return plain / (scaling.factor or 1.0), 1.0
        case "llama3":
            return _llama3(plain, scaling), 1.0
        case "yarn":
            return _yarn(config)
        case _:
            # Dynamic scaling equals none up to max_position_embeddings, and max_model_len ends there.
            return plain, 1.0


def _llama3(plain: torch.Tensor, scaling: RopeScaling) -> torch.Tensor:
    """Long waves are slowed down by the factor, short ones are not, those between partly."""
    factor, low, high = (x or 1.0 for x in (scaling.factor, scaling.low_freq_factor, scaling.high_freq_factor))
    original = scaling.original_max_position_embeddings or 0
    wavelength = 2 * math.pi / plain
    smooth = (original / wavelength - low) / (high - low)
    between = (1 - smooth) * plain / factor + smooth * plain
    slowed = torch.where(wavelength > original / low, plain / factor, plain)
    is_between = (wavelength <= original / low) & (wavelength >= original / high)
    return torch.where(is_between, between, slowed)


def _yarn(config: ModelConfig) -> tuple[torch.Tensor, float]:
    scaling, dim, theta = config.rope_scaling, config.head_dim, config.rope_theta
    original = scaling.original_max_position_embeddings or config.max_position_embeddings
    factor = scaling.factor or config.max_position_embeddings / original

    def dimension_of(num_rotations: float) -> float:
        return dim * math.log(original / (num_rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension_of(scaling.beta_fast or 32), dimension_of(scaling.beta_slow or 1)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=torch.float32) - low) / (high - low)).clamp(0, 1)
    position_frequencies = theta ** (torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    frequencies = 1.0 / (factor * position_frequencies) * ramp + 1.0 / position_frequencies * (1 - ramp)
    return frequencies, _yarn_attention_factor(scaling, factor)


def _yarn_attention_factor(scaling: RopeScaling, factor: float) -> float:
    def magnitude(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return magnitude(scaling.mscale) / magnitude(scaling.mscale_all_dim)
    return magnitude(1.0)
