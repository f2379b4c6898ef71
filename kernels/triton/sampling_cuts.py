"""The draw from what min-p, top-k and top-p leave of a row, without sorting it: one program a row.

The likeliest are set aside first: the c largest numbers lie in the c groups with the largest maxima. A cut is
then the largest number with enough tokens, or enough mass, at and above it, found by halving an interval of
float32's own order, at most 16 passes over a list: those set aside, or the row where they do not decide.
Of equals the lower id stays. As cpu/gumbel.py, `kept` and `draw`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .philox import NUM_STRIPS, STRIP, gumbel_of

_WANTED = tl.constexpr(512)
"""Groups that are set aside when top_k does not ask for fewer."""
_LOWEST = tl.constexpr(-3.4e38)
_AT_ONCE = tl.constexpr(32)
"""Groups that are looked through together."""


@triton.jit
def _key(values):
    """int32 that compare as the float32 values do (of which none is minus zero)."""
    bits = values.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _value(key):
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _between(low, high):
    """Their mean, rounded down, without overflow."""
    return (low & high) + ((low ^ high) >> 1)


@triton.jit
def _tally(values, length, largest, first, second, third, BY_MASS: tl.constexpr, LIST_TILE: tl.constexpr):
    """How many of a list, or how much mass exp(value - largest), lie at or above each of three keys. float32."""
    within = tl.arange(0, LIST_TILE)
    at_first = tl.zeros([LIST_TILE], tl.float32)
    at_second = tl.zeros([LIST_TILE], tl.float32)
    at_third = tl.zeros([LIST_TILE], tl.float32)
    for start in range(0, length, LIST_TILE):
        at = start + within
        found = tl.load(values + at, mask=at < length, other=float("-inf"))
        key = _key(found)
        if BY_MASS:
            weight = tl.exp(found - largest)
        else:
            weight = tl.where(at < length, 1.0, 0.0)
        at_first += tl.where(key >= first, weight, 0.0)
        at_second += tl.where(key >= second, weight, 0.0)
        at_third += tl.where(key >= third, weight, 0.0)
    return tl.sum(at_first, axis=0), tl.sum(at_second, axis=0), tl.sum(at_third, axis=0)


@triton.jit
def _cut(values, length, largest, low, target, BY_MASS: tl.constexpr, LIST_TILE: tl.constexpr):
    """The largest key with at least `target` at and above it, which `low` has; and what lies above that key."""
    high = _key(largest) + 1
    above = target * 0.0
    while low + 1 < high:
        second = _between(low, high)
        first = _between(low, second)
        third = _between(second, high)
        at_first, at_second, at_third = _tally(values, length, largest, first, second, third, BY_MASS, LIST_TILE)
        if at_third >= target:
            low = third
        elif at_second >= target:
            low = second
            high = third
            above = at_third
        elif at_first >= target:
            low = first
            high = second
            above = at_second
        else:
            high = first
            above = at_first
    return low, above


@triton.jit
def _nth_largest(values, n):
    """The n-th largest of a vector of values, -inf where there are fewer."""
    keys = _key(values)
    low = _key(tl.min(values, axis=0))
    high = _key(tl.max(values, axis=0)) + 1
    while low + 1 < high:
        middle = _between(low, high)
        if tl.sum((keys >= middle).to(tl.int32), axis=0) >= n:
            low = middle
        else:
            high = middle
    return _value(low)


@triton.jit
def _set_aside(
    scaled, values, token_ids, groups, group_largest, bound, num_groups, CAPACITY: tl.constexpr, GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
):  # fmt: skip
    """Write those at or above `bound` to a list, by id. Returns how many there are, even if more than fit."""
    group = tl.arange(0, GROUPS)
    holds = tl.load(group_largest + group, mask=group < num_groups, other=float("-inf")) >= bound
    place = tl.cumsum(holds.to(tl.int32), axis=0) - 1
    num_holding = tl.sum(holds.to(tl.int32), axis=0)
    tl.store(groups + place, group, mask=holds)
    # What other threads of this program wrote is read from here on.
    tl.debug_barrier()
    length = num_holding * 0
    for start in range(0, num_holding, _AT_ONCE):
        which = start + tl.arange(0, _AT_ONCE)
        chosen = tl.load(groups + which, mask=which < num_holding, other=0)
        ids = chosen[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
        found = tl.load(scaled + ids, mask=(which < num_holding)[:, None], other=float("-inf"))
        found = tl.reshape(found, [_AT_ONCE * GROUP])
        is_taken = found >= bound
        spot = length + tl.cumsum(is_taken.to(tl.int32), axis=0) - 1
        fits = is_taken & (spot < CAPACITY)
        tl.store(values + spot, found, mask=fits)
        tl.store(token_ids + spot, tl.reshape(ids, [_AT_ONCE * GROUP]), mask=fits)
        length += tl.sum(is_taken.to(tl.int32), axis=0)
    tl.debug_barrier()
    return length


@triton.jit
def _draw(values, token_ids, length, is_short, cut, num_equal, position, seed, LIST_TILE: tl.constexpr):
    """The token with the largest sum of value and noise among those above the cut and the first of its equals."""
    within = tl.arange(0, LIST_TILE)
    best = tl.full([], float("-inf"), tl.float32)
    token = length * 0
    num_seen = length * 0
    for start in range(0, length, LIST_TILE):
        at = start + within
        is_in = at < length
        found = tl.load(values + at, mask=is_in, other=float("-inf"))
        ids = tl.where(is_short, tl.load(token_ids + at, mask=is_in & is_short, other=0), at)
        key = _key(found)
        is_equal = (is_in & (key == cut)).to(tl.int32)
        before = num_seen + tl.cumsum(is_equal, axis=0) - is_equal
        is_kept = is_in & ((key > cut) | ((is_equal != 0) & (before < num_equal)))
        noisy = tl.where(is_kept, found + gumbel_of(ids, position, seed), float("-inf"))
        top = tl.max(noisy, axis=0)
        if top > best:
            token = tl.min(tl.where(noisy == top, ids, 2147483647), axis=0)
            best = top
        num_seen += tl.sum(is_equal, axis=0)
    return token, best


@triton.jit
def draw_after_cuts(
    scaled,
    candidates,
    groups,
    group_largest,
    tile_mass,
    top_k,
    top_p,
    min_p,
    position,
    seed,
    vocab_size,
    num_tiles,
    CAPACITY: tl.constexpr,
    GROUP: tl.constexpr,
    TILES: tl.constexpr,
    LIST_TILE: tl.constexpr,
):
    """(token int32, its noisy logit; -inf where the row has nothing to draw). Pointers are of this row."""
    per_tile: tl.constexpr = NUM_STRIPS * STRIP // GROUP
    num_groups = num_tiles * per_tile
    by_tile = tl.arange(0, TILES)[:, None]
    maxima = tl.load(
        group_largest + by_tile * per_tile + tl.arange(0, per_tile)[None, :],
        mask=by_tile < num_tiles,
        other=float("-inf"),
    )
    largest = tl.maximum(tl.max(maxima, axis=None), _LOWEST)
    tops = tl.maximum(tl.max(maxima, axis=1), _LOWEST)
    floor = tl.where(min_p > 0, tl.maximum(largest + tl.log(min_p), _LOWEST), _LOWEST)

    wanted = tl.where((top_k > 0) & (top_k < _WANTED), top_k, _WANTED)
    bound = _nth_largest(tl.reshape(maxima, [TILES * per_tile]), wanted)
    bound = tl.maximum(bound, floor)
    aside = scaled + num_tiles * (NUM_STRIPS * STRIP)
    length = _set_aside(
        scaled, aside, candidates, groups, group_largest, bound, num_groups, CAPACITY, GROUP, TILES * per_tile
    )

    # The list that decides: those set aside, if nothing that may be drawn lies outside, or mass enough within.
    low = _key(bound)
    covered, _, _ = _tally(aside, tl.minimum(length, CAPACITY), largest, low, low, low, True, LIST_TILE)
    tile = tl.arange(0, TILES)
    masses = tl.load(tile_mass + tile, mask=tile < num_tiles, other=0.0)
    total = tl.sum(masses * tl.exp(tl.where(masses > 0, tops - largest, 0.0)), axis=0)
    is_whole = (bound <= floor) | ((top_k > 0) & (length >= top_k))
    is_enough = (top_k == 0) & (min_p <= 0) & (covered >= total * top_p)
    is_short = (length <= CAPACITY) & (is_whole | is_enough)
    values = scaled + tl.multiple_of(tl.where(is_short, num_tiles * (NUM_STRIPS * STRIP), 0), STRIP)
    if is_short:
        total = tl.where(is_whole, covered, total)
    else:
        low = _key(floor)
        length = vocab_size
    num_equal = vocab_size

    if top_k > 0:
        all_above, _, _ = _tally(values, length, largest, low, low, low, False, LIST_TILE)
        if all_above > top_k:
            low, above = _cut(values, length, largest, low, top_k.to(tl.float32), False, LIST_TILE)
            num_equal = top_k - above.to(tl.int32)
    if top_p < 1:
        weight = tl.exp(_value(low) - largest)
        if (top_k > 0) | (not is_short):
            above, at_low, _ = _tally(values, length, largest, low + 1, low, low, True, LIST_TILE)
            total = tl.where(num_equal < vocab_size, above + num_equal.to(tl.float32) * weight, at_low)
        cut, above = _cut(values, length, largest, low, total * top_p, True, LIST_TILE)
        lacking = total * top_p - above
        is_same = cut == low
        weight = tl.exp(_value(cut) - largest)
        needed = tl.maximum(tl.ceil(tl.minimum(lacking / weight, 16777216.0)), 1.0).to(tl.int32)
        num_equal = tl.where(is_same, tl.minimum(num_equal, needed), needed)
        low = cut
    return _draw(values, candidates, length, is_short, low, num_equal, position, seed, LIST_TILE)
