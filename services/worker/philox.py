"""The random numbers of sampling: Philox4x32-10, one uniform for a seed and an output position.

Counter-based, so that a choice that is resumed, recomputed or batched differently draws the same.
Salmon, Moraes, Dror, Shaw: Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]

_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint64(0x9E3779B9)
_WEYL_1 = np.uint64(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ROUNDS = 10


def philox4x32(counter: tuple[Words, Words, Words, Words], key: tuple[Words, Words]) -> tuple[Words, ...]:
    """Four words of 32 bits (in uint64 arrays of one shape) from a counter of four and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        product_0, product_1 = c0 * _MULTIPLIER_0, c2 * _MULTIPLIER_1
        c0, c1, c2, c3 = (
            (product_1 >> _HALF) ^ c1 ^ k0,
            product_1 & _LOW,
            (product_0 >> _HALF) ^ c3 ^ k1,
            product_0 & _LOW,
        )
        k0, k1 = (k0 + _WEYL_0) & _LOW, (k1 + _WEYL_1) & _LOW
    return c0, c1, c2, c3


def uniforms(seeds: Words, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """[N] in [0, 1) with 53 bits each. `seeds` unsigned 64 bits, `positions` counts outputs from 0."""
    at = positions.astype(np.uint64)
    zero = np.zeros_like(at)
    first, second, _, _ = philox4x32((at & _LOW, at >> _HALF, zero, zero), (seeds & _LOW, seeds >> _HALF))
    high, low = first >> np.uint64(5), second >> np.uint64(6)
    return (high * np.uint64(1 << 26) + low).astype(np.float64) / float(1 << 53)
