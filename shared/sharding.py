"""How a model is divided among the ranks of a tensor-parallel group: the dimensions of one rank's part.

Query heads, key-value heads and the width of the MLP are divided; the vocabulary is padded until it can be. Used
before anything is started, to refuse what cannot be divided, and by the worker, to build its part.
"""

from __future__ import annotations

import msgspec

from .model_config import ModelConfig
from .model_errors import ModelFilesError

_VOCAB_MULTIPLE = 16
"""Of a rank's part of the vocabulary: matrix units want such sizes."""


def part_of(config: ModelConfig, size: int) -> ModelConfig:
    """The dimensions of one of `size` ranks; the vocabulary stays whole. Raises ModelFilesError.

    Where there are fewer key-value heads than ranks, several ranks hold the same one.
    """
    if size == 1:
        return config
    hindrance = _hindrance(config, size)
    if hindrance:
        possible = ", ".join(str(number) for number in range(2, 65) if not _hindrance(config, number))
        raise ModelFilesError(f"--tensor-parallel-size {size} {hindrance}; possible: {possible or 'only 1'}")
    return msgspec.structs.replace(
        config,
        num_attention_heads=config.num_attention_heads // size,
        num_key_value_heads=max(1, config.num_key_value_heads // size),
        intermediate_size=config.intermediate_size // size,
    )


def _hindrance(config: ModelConfig, size: int) -> str:
    for name, whole in (
        ("num_attention_heads", config.num_attention_heads),
        ("intermediate_size", config.intermediate_size),
    ):
        if whole % size:
            return f"does not divide the model's {name} {whole}"
    num_kv_heads = config.num_key_value_heads
    if num_kv_heads % size and size % num_kv_heads:
        return f"does not go with {num_kv_heads} key-value heads: one must divide the other"
    return ""


def vocab_part(vocab_size: int, size: int) -> int:
    """Rows of the embedding that each of `size` ranks holds, padding included."""
    if size == 1:
        return vocab_size
    return -(-vocab_size // (size * _VOCAB_MULTIPLE)) * _VOCAB_MULTIPLE
