"""Random numbers of tokens, from a row's seed, its output position and the token's id.

Counter-based (Philox4x32-10), so that a row draws the same in any batch, after any resumption. What
the device computes is specified in cpu/gumbel.py; a token's word of the four that a counter
gives is chosen so that a tile [4, 1024] of neighbouring tokens needs each counter once.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton import knobs

STRIP = tl.constexpr(1024)
NUM_STRIPS = tl.constexpr(4)
_WORD = tl.constexpr(2.0**-32)
_HALF_WORD = tl.constexpr(2.0**-33)
_LARGEST = tl.constexpr(1 - 2.0**-24)
_SMALL = tl.constexpr(2.0**-5)
_LN_2 = tl.constexpr(0.6931471805599453)
_IS_INTERPRETED = tl.constexpr(knobs.runtime.interpret)


@triton.jit
def _fast_log(values):
    """The hardware's logarithm, two instructions for Triton's twenty: to 2^-22 of log2, near 1 and far from it."""
    if _IS_INTERPRETED:
        return tl.log(values)
    else:
        found = tl.inline_asm_elementwise("lg2.approx.f32 $0, $1;", "=f,f", [values], tl.float32, True, 1)
        return found * _LN_2


@triton.jit
def _waiting(words):
    """Exponential times float32, mean 1, of uint32 words: -log(1 - share), in (0, 17).

    The shortest decide. There log(1 - share) has lost its digits, and a series stands for it.
    """
    share = tl.minimum(words.to(tl.float32) * _WORD + _HALF_WORD, _LARGEST)
    series = share * (1.0 + share * (0.5 + share * (0.33333334 + share * (0.25 + share * 0.2))))
    return tl.where(share < _SMALL, series, -_fast_log(1.0 - share))


@triton.jit
def waiting_of_tile(tile, position, seed):
    """Exponential times [4, 1024] of the tokens from tile * 4096 on. position int32, seed int64 (its bits count).

    The token with the largest weight / time is drawn in proportion to the weights: Gumbel-max without its outer log.
    """
    counters = tile * STRIP + tl.arange(0, STRIP)
    first, second, third, fourth = tl.philox(seed, counters, position, 0, 0)  # pyright: ignore
    strip = tl.arange(0, NUM_STRIPS)[:, None]
    early = tl.where(strip == 0, first[None, :], second[None, :])
    late = tl.where(strip == 2, third[None, :], fourth[None, :])
    return _waiting(tl.where(strip < 2, early, late))


@triton.jit
def gumbel_of(token_ids, position, seed):
    """Gumbel noise, -log(time), of any token_ids int32, in their shape."""
    counters = token_ids // (NUM_STRIPS * STRIP) * STRIP + token_ids % STRIP
    first, second, third, fourth = tl.philox(seed, counters, position, 0, 0)  # pyright: ignore
    strip = token_ids // STRIP % NUM_STRIPS
    early = tl.where(strip == 0, first, second)
    late = tl.where(strip == 2, third, fourth)
    return -_fast_log(_waiting(tl.where(strip < 2, early, late)))
