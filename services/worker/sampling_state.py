"""The sampling parameters of each slot, as columns, and what of them is sparse.

Part of the batch state, read by the sampler. A recycled slot is reset from a template, so that
nothing of one request reaches the next.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from quire.shared.messages import SamplingParams

_COLUMNS = np.dtype(
    [
        ("temperature", np.float32),
        ("top_k", np.int64),
        ("top_p", np.float32),
        ("min_p", np.float32),
        ("repetition", np.float32),
        ("frequency", np.float32),
        ("presence", np.float32),
        ("seed", np.uint64),
        ("min_tokens", np.int64),
        ("logprobs", np.int32),
        ("prompt_logprobs", np.int32),
        ("is_greedy", np.bool_),
        ("has_penalties", np.bool_),
    ]
)
"""logprobs and prompt_logprobs are 1 + the number wanted, 0 for none."""

_TEMPLATE = np.zeros((), _COLUMNS)
for _name, _value in (("temperature", 1.0), ("top_p", 1.0), ("repetition", 1.0)):
    _TEMPLATE[_name] = _value

_LEAST_TEMPERATURE = 1e-5
"""Below it a row is greedy: dividing by less overflows."""

Ids = npt.NDArray[np.int64]


class Edits(Struct, frozen=True):
    """What a row wants done to single logits. All ids are within the vocabulary."""

    biased: Ids
    biases: npt.NDArray[np.float32]
    allowed: Ids | None
    """None: all."""
    banned: Ids
    ends: Ids
    """Suppressed until min_tokens are there."""


class SamplingState:
    """Columns by slot in `columns`, and `edits` of those slots that have any."""

    def __init__(self, max_num_seqs: int, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        self.columns = np.full(max_num_seqs, _TEMPLATE)
        self.edits: dict[int, Edits] = {}
        self._vocab_size = vocab_size
        self._eos_token_ids = tuple(eos_token_ids)

    def reset(self, slot: int) -> None:
        self.columns[slot] = _TEMPLATE
        self.edits.pop(slot, None)

    def set(self, slot: int, params: SamplingParams, seed: int) -> None:
        """Fill a slot that has been reset."""
        row = self.columns[slot]
        row["is_greedy"] = params.temperature < _LEAST_TEMPERATURE
        row["temperature"] = max(params.temperature, _LEAST_TEMPERATURE)
        row["top_k"] = 0 if params.top_k >= self._vocab_size else max(0, params.top_k)
        row["top_p"] = params.top_p
        row["min_p"] = params.min_p
        row["repetition"] = params.repetition_penalty
        row["frequency"] = params.frequency_penalty
        row["presence"] = params.presence_penalty
        row["seed"] = seed % (1 << 64)
        row["min_tokens"] = params.min_tokens
        row["logprobs"] = 0 if params.logprobs is None else 1 + min(params.logprobs, self._vocab_size)
        row["prompt_logprobs"] = (
            0 if params.prompt_logprobs is None else 1 + min(params.prompt_logprobs, self._vocab_size)
        )
        row["has_penalties"] = (
            params.repetition_penalty != 1 or params.frequency_penalty != 0 or params.presence_penalty != 0
        )
        self._set_edits(slot, params)

    def _set_edits(self, slot: int, params: SamplingParams) -> None:
        ends: list[int] = []
        if params.min_tokens > 0:
            ends = [*params.stop_token_ids, *(() if params.ignore_eos else self._eos_token_ids)]
        allowed = self._known(params.allowed_token_ids or ())
        if not (params.logit_bias or len(allowed) or params.bad_token_ids or ends):
            return
        biases = {token_id: bias for token_id, bias in params.logit_bias.items() if 0 <= token_id < self._vocab_size}
        self.edits[slot] = Edits(
            biased=np.array(list(biases), np.int64),
            biases=np.array(list(biases.values()), np.float32),
            allowed=allowed if len(allowed) else None,
            banned=self._known(params.bad_token_ids),
            ends=self._known(ends),
        )

    def _known(self, token_ids: Iterable[int]) -> Ids:
        return np.array(sorted({id for id in token_ids if 0 <= id < self._vocab_size}), np.int64)
