"""Which part of each checkpoint tensor a rank holds.

Outputs of the first linear of a pair and inputs of the second are divided by heads or by columns of the MLP,
embedding and head by rows of the vocabulary. Everything else every rank holds whole.
"""

from __future__ import annotations

import msgspec

from quire.shared.model_config import ModelConfig
from quire.shared.model_errors import ModelFilesError
from quire.shared.weight_files import TensorEntry

from .tensor_parallel import RankGroup

_OUTPUTS = {"gate_proj": "mlp", "up_proj": "mlp", "q_proj": "q", "k_proj": "kv", "v_proj": "kv"}
_INPUTS = {"o_proj": "q", "down_proj": "mlp"}
_BY_VOCABULARY = ("embed_tokens", "lm_head")


class WeightCuts:
    """Of a model of the checkpoint's (whole) `config`, for one rank."""

    def __init__(self, config: ModelConfig, group: RankGroup) -> None:
        self._is_alone = group.size == 1
        num_kv_heads, rank, size = config.num_key_value_heads, group.rank, group.size
        heads, mlp = config.num_attention_heads // size, config.intermediate_size // size
        kv_heads = max(1, num_kv_heads // size)
        first_kv = rank * num_kv_heads // size
        self._ranges = {
            "q": (rank * heads * config.head_dim, heads * config.head_dim),
            "kv": (first_kv * config.head_dim, kv_heads * config.head_dim),
            "mlp": (rank * mlp, mlp),
        }
        self._wholes = {
            "q": config.num_attention_heads * config.head_dim,
            "kv": num_kv_heads * config.head_dim,
            "mlp": config.intermediate_size,
        }
        first, end = group.vocab_rows(config.vocab_size)
        self._ranges["vocabulary"], self._wholes["vocabulary"] = (first, end - first), config.vocab_size

    def rows(self, entries: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
        """The entries with only those rows that are this rank's. Raises ModelFilesError for another size."""
        if self._is_alone:
            return entries
        return {name: self._rows_of(name, entry) for name, entry in entries.items()}

    def columns(self, name: str) -> tuple[int, int, int] | None:
        """(first, count, of how many) of a tensor's columns; None: all."""
        _, _, layer = name.removesuffix(".weight").rpartition(".")
        what = None if self._is_alone or not name.endswith(".weight") else _INPUTS.get(layer)
        return None if what is None else (*self._ranges[what], self._wholes[what])

    def _rows_of(self, name: str, entry: TensorEntry) -> TensorEntry:
        _, _, layer = name.rpartition(".")[0].rpartition(".")
        what = "vocabulary" if layer in _BY_VOCABULARY else _OUTPUTS.get(layer)
        if what is None or not entry.shape:
            return entry
        if entry.shape[0] != self._wholes[what]:
            raise ModelFilesError(f"{name} has {entry.shape[0]} rows; the model's has {self._wholes[what]}")
        first, count = self._ranges[what]
        row_bytes = entry.size_bytes // entry.shape[0]
        return msgspec.structs.replace(
            entry,
            shape=(count, *entry.shape[1:]),
            offset=entry.offset + first * row_bytes,
            size_bytes=count * row_bytes,
        )
