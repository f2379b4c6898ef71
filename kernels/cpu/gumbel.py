"""What a sampler draws that runs on the device: Gumbel-max over the tokens that the filters keep.

The specification of triton/sampling.py, the long way: whole rows, sorted. It draws from the same
distribution as `sample` (by inverse CDF), but other tokens for the same seed.
Philox4x32-10: Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

_STRIP = 1024
_NUM_STRIPS = 4
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10
_SMALL = np.float32(2.0**-5)

Words = npt.NDArray[np.uint64]


def gumbel_noise(seed: int, position: int, token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Standard Gumbel noise of tokens [n] at an output position (from 0). Of the seed 64 bits count.

    Four strips of 1024 neighbouring tokens share 1024 counters: counter (index, position, 0, 0) has one
    word for the same place in each strip.
    """
    span = _STRIP * _NUM_STRIPS
    counters = (token_ids // span * _STRIP + token_ids % _STRIP).astype(np.uint64)
    words = np.stack(_philox(counters, position, seed % (1 << 64)))
    chosen = words[token_ids // _STRIP % _NUM_STRIPS, np.arange(len(token_ids))]
    share = chosen.astype(np.uint32).astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)
    share = np.minimum(share, np.float32(1 - 2.0**-24))
    is_small = share < _SMALL
    # log1p is the device's series as well as its logarithm, to the last digits of float32.
    waiting = np.where(is_small, -np.log1p(-share), -np.log(np.float32(1) - share))
    return -np.log(waiting)


def _philox(counters: Words, position: int, seed: int) -> tuple[Words, ...]:
    c0, c1 = counters, np.full_like(counters, position)
    c2, c3 = np.zeros_like(counters), np.zeros_like(counters)
    k0, k1 = np.uint64(seed & 0xFFFFFFFF), np.uint64(seed >> 32)
    for _ in range(_ROUNDS):
        product_0, product_1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        c0, c2 = (product_1 >> _HALF) ^ c1 ^ k0, (product_0 >> _HALF) ^ c3 ^ k1
        c1, c3 = product_1 & _LOW, product_0 & _LOW
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & _LOW, (k1 + np.uint64(0xBB67AE85)) & _LOW
    return c0, c1, c2, c3


def kept(scaled: torch.Tensor, top_k: int, top_p: float, min_p: float) -> torch.Tensor:
    """bool [V]: which tokens of one row (logits already divided by the temperature) may be drawn.

    Of equals the lower id comes first. Those with -inf are never kept.
    """
    values = scaled.double()
    weights = torch.exp(values - values.max())
    weights[weights < min_p] = 0.0
    order = torch.sort(values, descending=True, stable=True).indices
    if top_k:
        weights[order[top_k:]] = 0.0
    if top_p < 1:
        cumulative = weights[order].cumsum(0)
        last = int(torch.searchsorted(cumulative, cumulative[-1] * top_p))
        weights[order[last + 1 :]] = 0.0
    return (weights > 0) & ~torch.isneginf(scaled)


def draw(
    logits: torch.Tensor, temperature: float, top_k: int, top_p: float, min_p: float, seed: int, position: int
) -> int:
    """One token of one row of float32 logits [V]. temperature 0: the likeliest, the lowest id among equals."""
    if temperature == 0:
        return int(torch.argmax(logits))
    scaled = logits * (1 / torch.tensor(temperature, dtype=torch.float32))
    noise = torch.from_numpy(gumbel_noise(seed, position, np.arange(len(logits))))
    noisy = (scaled + noise).masked_fill(~kept(scaled, top_k, top_p, min_p), -torch.inf)
    return int(torch.argmax(noisy))
