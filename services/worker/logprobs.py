"""Logprobs as they travel: of sampled tokens, and of prompt tokens in slices of bounded memory.

From raw logits, after the forward pass; independent of how tokens are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from quire import kernels
from quire.shared.messages import TokenLogprobs

from .batch_state import BatchState, StepInputs

_SLICE_BYTES = 64 << 20
"""Of float32 logits at once."""


def packed_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, rows: list[int], counts: list[int]
) -> list[TokenLogprobs]:
    """One entry a row of float32 logits [N, V]; rows are their names, counts how many of the likeliest each wants."""
    found = kernels.token_logprobs(logits, token_ids, max(counts))
    return named_logprobs([tensor.cpu().numpy() for tensor in found], rows, counts)


def named_logprobs(found: Sequence[np.ndarray], rows: list[int], counts: list[int]) -> list[TokenLogprobs]:
    """One entry a row of what kernels.token_logprobs found, once it is on the host."""
    chosen, ranks, top_ids, top = found
    ranks, top_ids = ranks.astype(np.int32), top_ids.astype(np.int32)
    return [
        TokenLogprobs(
            row,
            chosen[i : i + 1].tobytes(),
            ranks[i : i + 1].tobytes(),
            top_ids[i, :count].tobytes(),
            top[i, :count].tobytes(),
        )
        for i, (row, count) in enumerate(zip(rows, counts, strict=True))
    ]


def prompt_logprobs(
    hidden: torch.Tensor,
    inputs: StepInputs,
    batch: BatchState,
    compute_logits: Callable[[torch.Tensor], torch.Tensor],
) -> list[TokenLogprobs]:
    """Of the prompt token after each scheduled position that has one, for rows that want it. hidden [T, H]."""
    wanted = batch.sampling.columns["prompt_logprobs"][inputs.slots]
    found = []
    for row in np.flatnonzero(wanted).tolist():
        slot, start, end = int(inputs.slots[row]), int(inputs.cu_q[row]), int(inputs.cu_q[row + 1])
        first = int(inputs.positions[start]) + 1
        num_targets = min(end - start, int(batch.num_prompt_tokens[slot]) - first)
        if num_targets > 0:
            targets = batch.token_ids[slot, first : first + num_targets]
            found.append(
                _of_row(row, hidden[start : start + num_targets], targets, int(wanted[row]) - 1, batch, compute_logits)
            )
    return found


def _of_row(
    row: int,
    hidden: torch.Tensor,
    targets: np.ndarray,
    num_top: int,
    batch: BatchState,
    compute_logits: Callable[[torch.Tensor], torch.Tensor],
) -> TokenLogprobs:
    token_ids = torch.from_numpy(targets.astype(np.int64)).to(hidden.device)
    parts = []
    for low, high in _slices(len(targets), batch.limits.vocab_size):
        logits = compute_logits(hidden[low:high])
        found = kernels.token_logprobs(logits, token_ids[low:high], num_top)
        parts.append([tensor.cpu().numpy() for tensor in found])
    return joined_logprobs(row, parts)


def joined_logprobs(row: int, parts: Iterable[Sequence[np.ndarray]]) -> TokenLogprobs:
    """One entry of what kernels.token_logprobs found of a row's prompt, part after part, once it is on the host."""
    chosen, ranks, top_ids, top = (np.concatenate(column) for column in zip(*parts, strict=True))
    return TokenLogprobs(
        row,
        chosen.tobytes(),
        ranks.astype(np.int32).tobytes(),
        top_ids.astype(np.int32).tobytes(),
        top.tobytes(),
    )


def _slices(count: int, vocab_size: int) -> Iterator[tuple[int, int]]:
    step = max(1, _SLICE_BYTES // (4 * vocab_size))
    for low in range(0, count, step):
        yield low, min(low + step, count)
