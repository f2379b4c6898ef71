"""Made-up logprobs that hang together: ranks, values and likeliest tokens agree.

Used by fake_rows.py for rows that ask for logprobs. The token of rank r has logprob -r / 2,
and the likeliest tokens are the neighbours of the token in the pool, in order.
Knows neither slots' contents nor links.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quire.shared.messages import SamplingParams, TokenLogprobs

Ids = npt.NDArray[np.int32]

_RANKS = 7


def logprobs_of(row: int, token_ids: Ids, ranks: Ids, num_top: int, pool: Ids) -> TokenLogprobs:
    """For tokens [n] of the given ranks [n] (from 1): themselves and the `num_top` likeliest [n, num_top]."""
    places = np.searchsorted(pool, token_ids) - (ranks - 1)
    top = pool[(places[:, None] + np.arange(num_top)) % len(pool)]
    is_its_own = ranks[:, None] - 1 == np.arange(num_top)
    top = np.where(is_its_own, token_ids[:, None], top)
    top_logprobs = np.broadcast_to(-0.5 * np.arange(1, num_top + 1), top.shape)
    return TokenLogprobs(
        row,
        (-0.5 * ranks).astype(np.float32).tobytes(),
        ranks.astype(np.int32).tobytes(),
        top.astype(np.int32).tobytes(),
        top_logprobs.astype(np.float32).tobytes(),
    )


def sampled_logprobs(rows: Ids, token_ids: Ids, wanted: dict[int, SamplingParams], pool: Ids) -> list[TokenLogprobs]:
    """Of one sampled token a row; it is always the likeliest."""
    found = []
    for index, slot in enumerate(rows.tolist()):
        sampling = wanted.get(slot)
        if sampling is not None and sampling.logprobs is not None:
            first = np.ones(1, np.int32)
            found.append(logprobs_of(index, token_ids[index : index + 1], first, sampling.logprobs, pool))
    return found


def prompt_logprobs(
    slots: Ids, scheduled: Ids, computed: Ids, prompts: dict[int, Ids], wanted: dict[int, SamplingParams], pool: Ids
) -> list[TokenLogprobs]:
    """Of the prompt token after each scheduled position that has one; ranks follow from the ids."""
    found = []
    for index, slot in enumerate(slots.tolist()):
        prompt = prompts.get(slot)
        if prompt is None:
            continue
        num_top = wanted[slot].prompt_logprobs or 0
        after = prompt[computed[index] + 1 : computed[index] + scheduled[index] + 1]
        if len(after):
            found.append(logprobs_of(index, after, 1 + after % _RANKS, num_top, pool))
    return found
