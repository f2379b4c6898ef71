"""The sampler: from raw logits to one token a row, in a fixed order.

Grammar masks, logit edits, penalties, temperature, min_p, top-k and top-p, then the draw; logprobs are of the raw
logits. Each part works only on the rows that ask for it, and what a row draws depends on nothing
but its logits, its parameters, its seed and its output position.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from msgspec import Struct

from quire import kernels
from quire.shared.messages import Masks, TokenLogprobs

from .batch_state import BatchState
from .logit_edits import apply_edits
from .logprobs import packed_logprobs
from .masks import apply_masks
from .philox import uniforms
from .slot_lengths import Int32s

Bools = npt.NDArray[np.bool_]


class Sampled(Struct):
    """What a step's sampling rows gave, in their order."""

    token_ids: Int32s
    failed_rows: list[int]
    logprobs: list[TokenLogprobs]


def sample_rows(logits: torch.Tensor, slots: Int32s, batch: BatchState, masks: Masks | None = None) -> Sampled:
    """One token for each row of float32 logits [N, V], which are overwritten. slots [N]. Raises PlanError."""
    columns = batch.sampling.columns[slots]
    failed = _clear_failed(logits)
    wants_logprobs = np.flatnonzero(columns["logprobs"])
    raw = logits[_on(logits, wants_logprobs)] if len(wants_logprobs) else logits[:0]
    num_outputs = batch.num_tokens[slots] - batch.num_prompt_tokens[slots]
    if masks is not None:
        apply_masks(logits, masks)
    if batch.sampling.edits:
        known = batch.sampling.edits
        edited = [(row, known[slot]) for row, slot in enumerate(slots.tolist()) if slot in known]
        if edited:
            apply_edits(logits, edited, num_outputs < columns["min_tokens"])
    if columns["has_penalties"].any():
        _apply_penalties(logits, slots, columns, batch)
    token_ids = _drawn(logits, columns, num_outputs)
    logprobs: list[TokenLogprobs] = []
    if len(wants_logprobs):
        tokens = token_ids[_on(token_ids, wants_logprobs)]
        counts = columns["logprobs"][wants_logprobs] - 1
        logprobs = packed_logprobs(raw, tokens, wants_logprobs.tolist(), counts.tolist())
    return Sampled(token_ids.to(device="cpu", dtype=torch.int32).numpy(), failed, logprobs)


def _on(like: torch.Tensor, array: npt.NDArray[Any]) -> torch.Tensor:
    # A column of one row keeps the stride of its record, which torch refuses although the array is contiguous.
    return torch.from_numpy(array.copy() if array.size == 1 else array).to(like.device)


def _clear_failed(logits: torch.Tensor) -> list[int]:
    """Rows whose logits are not finite; they become zeros, so that the rest of the way is safe."""
    is_finite = kernels.rows_are_finite(logits).cpu().numpy()
    if is_finite.all():
        return []
    failed = np.flatnonzero(~is_finite)
    logits[_on(logits, failed)] = 0.0
    return failed.tolist()


def _apply_penalties(logits: torch.Tensor, slots: Int32s, columns: npt.NDArray[Any], batch: BatchState) -> None:
    rows = np.flatnonzero(columns["has_penalties"])
    chosen = slots[rows]
    num_tokens = batch.num_tokens[chosen][:, None]
    places = np.arange(int(num_tokens.max()))
    is_token = places < num_tokens
    is_output = is_token & (places >= batch.num_prompt_tokens[chosen][:, None])
    token_ids = batch.token_ids[chosen, : len(places)].astype(np.int64)
    is_all = len(rows) == len(slots)
    part = logits if is_all else logits[_on(logits, rows)]
    kernels.apply_penalties(
        part,
        _on(logits, np.where(is_token, token_ids, 0)),
        _on(logits, is_token),
        _on(logits, is_output),
        *(_on(logits, columns[name][rows]) for name in ("repetition", "frequency", "presence")),
    )
    if not is_all:
        logits[_on(logits, rows)] = part


def _drawn(logits: torch.Tensor, columns: npt.NDArray[Any], num_outputs: npt.NDArray[np.int64]) -> torch.Tensor:
    """int64 [N]"""
    is_greedy = columns["is_greedy"]
    if is_greedy.all():
        return kernels.greedy(logits)
    if not is_greedy.any():
        return _random(logits, columns, num_outputs)
    token_ids = torch.empty(len(columns), dtype=torch.int64, device=logits.device)
    rows = np.flatnonzero(is_greedy)
    token_ids[_on(logits, rows)] = kernels.greedy(logits[_on(logits, rows)])
    rows = np.flatnonzero(~is_greedy)
    token_ids[_on(logits, rows)] = _random(logits[_on(logits, rows)], columns[rows], num_outputs[rows])
    return token_ids


def _random(logits: torch.Tensor, columns: npt.NDArray[Any], num_outputs: npt.NDArray[np.int64]) -> torch.Tensor:
    def column(name: str) -> torch.Tensor:
        return _on(logits, np.ascontiguousarray(columns[name]))

    draws = _on(logits, uniforms(columns["seed"], num_outputs))
    return kernels.sample(logits, column("temperature"), column("top_k"), column("top_p"), column("min_p"), draws)
