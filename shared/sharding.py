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
    _divide("num_attention_heads", config.num_attention_heads, size)
    _divide("intermediate_size", config.intermediate_size, size)
    num_kv_heads = config.num_key_value_heads
    if num_kv_heads % size and size % num_kv_heads:
        raise ModelFilesError(
            f"--tensor-parallel-size {size} does not go with {num_kv_heads} key-value heads: one must divide the other"
        )
    return msgspec.structs.replace(
        config,
        num_attention_heads=config.num_attention_heads // size,
        num_key_value_heads=max(1, num_kv_heads // size),
        intermediate_size=config.intermediate_size // size,
    )


def vocab_part(vocab_size: int, size: int) -> int:
    """Rows of the embedding that each of `size` ranks holds, padding included."""
    if size == 1:
        return vocab_size
    return -(-vocab_size // (size * _VOCAB_MULTIPLE)) * _VOCAB_MULTIPLE


def _divide(name: str, whole: int, size: int) -> None:
    if whole % size:
        possible = ", ".join(str(number) for number in range(2, min(whole, 64) + 1) if not whole % number)
        raise ModelFilesError(
            f"--tensor-parallel-size {size} does not divide the model's {name} {whole}; {possible or 'only 1'} would"
        )
