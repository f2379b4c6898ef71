"""The two kernels of the sampler: a pass over the logits by tiles, and what finishes a row.

The pass does edits, grammar, penalties and temperature, in this order, and either draws the best of its
tile or leaves the tile's numbers to be cut (sampling_cuts.py). It is the only place that reads the logits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .penalties import bits_of_tile, penalised
from .philox import NUM_STRIPS, STRIP, waiting_of_tile
from .sampling_cuts import draw_after_cuts

_NO_TOKEN = tl.constexpr(2**31 - 1)


@triton.jit
def _is_cut(temperature, top_k, top_p, min_p):
    return (temperature > 0) & ((top_k > 0) | (top_p < 1) | (min_p > 0))


@triton.jit
def _edited(values, token_ids, first, last, position, ids, additions, until, num_edits):
    """Values with those edits added whose ids lie in [first, last); ids ascend, so that few are looked at."""
    low = num_edits * 0
    high = num_edits
    while low < high:
        middle = (low + high) // 2
        if tl.load(ids + middle) < first:
            low = middle + 1
        else:
            high = middle
    is_more = low < num_edits
    while is_more:
        edited = tl.load(ids + low)
        is_on = (edited < last) & (position < tl.load(until + low))
        values += tl.where((token_ids == edited) & is_on, tl.load(additions + low), 0.0)
        low += 1
        is_more = (low < num_edits) & (edited < last)
    return values


@triton.jit(do_not_specialize=["edits_stride"], do_not_specialize_on_alignment=["slots", "grammar_rows"])
def sampling_pass(
    logits,
    logits_stride,
    slots,
    grammar_rows,
    grammar,
    grammar_stride,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    repetitions,
    frequencies,
    presences,
    seeds,
    num_outputs,
    num_edits,
    edit_ids,
    edit_values,
    edit_until,
    edits_stride,
    outputs,
    outputs_stride,
    prompt,
    prompt_stride,
    scaled,
    scaled_stride,
    group_largest,
    tile_mass,
    tile_best,
    tile_token,
    tile_is_finite,
    vocab_size,
    GROUP: tl.constexpr,
):
    """Grid: rows, tiles of 4096 tokens. A tile is [4, 1024], as the noise comes."""
    row = tl.program_id(0)
    tile = tl.program_id(1)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        return
    num_tiles = tl.num_programs(1)
    first = tile * (NUM_STRIPS * STRIP)
    token_ids = first + tl.arange(0, NUM_STRIPS)[:, None] * STRIP + tl.arange(0, STRIP)[None, :]
    is_in = token_ids < vocab_size
    values = tl.load(logits + row.to(tl.int64) * logits_stride + token_ids, mask=is_in, other=0.0).to(tl.float32)
    # NaN and infinities are those that no bound holds.
    is_finite = tl.min((tl.abs(values) < float("inf")).to(tl.int32), axis=None)
    position = tl.load(num_outputs + slot)

    edits = tl.load(num_edits + slot)
    if edits > 0:
        at = slot * edits_stride
        last = first + NUM_STRIPS * STRIP
        values = _edited(
            values, token_ids, first, last, position, edit_ids + at, edit_values + at, edit_until + at, edits
        )
    num_words = tl.cdiv(vocab_size, 32)
    grammar_row = tl.load(grammar_rows + row).to(tl.int64)
    if grammar_row >= 0:
        allowed = bits_of_tile(grammar + grammar_row * grammar_stride, tile, num_words, NUM_STRIPS, STRIP)
        values = tl.where(allowed != 0, values, float("-inf"))
    repetition = tl.load(repetitions + slot)
    frequency = tl.load(frequencies + slot)
    presence = tl.load(presences + slot)
    if (repetition != 1) | (frequency != 0) | (presence != 0):
        count = tl.load(outputs + slot * outputs_stride + token_ids, mask=is_in, other=0)
        is_prompt = bits_of_tile(prompt + slot * prompt_stride, tile, num_words, NUM_STRIPS, STRIP)
        values = penalised(values, count, is_prompt, repetition, frequency, presence)
    values = tl.where(is_in, values, float("-inf"))

    temperature = tl.load(temperatures + slot)
    if temperature > 0:
        values = values * (1.0 / temperature)
    at = row.to(tl.int64) * num_tiles + tile
    tl.store(tile_is_finite + at, is_finite)
    if _is_cut(temperature, tl.load(top_ks + slot), tl.load(top_ps + slot), tl.load(min_ps + slot)):
        # Minus zero would come after zero in the search, which compares bits.
        values = tl.where(values == 0, 0.0, values)
        tl.store(scaled + row.to(tl.int64) * scaled_stride + token_ids, values)
        per_strip: tl.constexpr = STRIP // GROUP
        largest = tl.max(tl.reshape(values, [NUM_STRIPS, per_strip, GROUP]), axis=2)
        places = tl.arange(0, NUM_STRIPS)[:, None] * per_strip + tl.arange(0, per_strip)[None, :]
        tl.store(group_largest + at * (NUM_STRIPS * per_strip) + places, largest)
        top = tl.max(largest, axis=None)
        top = tl.where(top == float("-inf"), 0.0, top)
        tl.store(tile_mass + at, tl.sum(tl.exp(values - top), axis=None))
    else:
        base = temperature * 0.0
        if temperature > 0:
            top = tl.max(values, axis=None)
            base = tl.where(top == float("-inf"), 0.0, top)
            values = tl.exp(values - base) / waiting_of_tile(tile, position, tl.load(seeds + slot))
        best = tl.max(values, axis=None)
        tl.store(tile_token + at, tl.min(tl.where(values == best, token_ids, _NO_TOKEN), axis=None))
        if temperature > 0:
            best = tl.where(best > 0, tl.log(best) + base, float("-inf"))
        tl.store(tile_best + at, best)


@triton.jit(do_not_specialize_on_alignment=["slots", "token_ids", "is_ok"])
def sampling_finish(
    slots,
    temperatures,
    top_ks,
    top_ps,
    min_ps,
    seeds,
    num_outputs,
    outputs,
    outputs_stride,
    scaled,
    scaled_stride,
    candidates,
    groups,
    group_largest,
    tile_mass,
    tile_best,
    tile_token,
    tile_is_finite,
    token_ids,
    is_ok,
    vocab_size,
    num_tiles,
    NUM_CANDIDATES: tl.constexpr,
    GROUP: tl.constexpr,
    TILES: tl.constexpr,
    LIST_TILE: tl.constexpr,
):
    """Grid: rows. TILES is num_tiles rounded up to a power of two."""
    row = tl.program_id(0)
    slot = tl.load(slots + row).to(tl.int64)
    if slot < 0:
        tl.store(token_ids + row, 0)
        tl.store(is_ok + row, 1)
        return
    temperature = tl.load(temperatures + slot)
    top_k = tl.load(top_ks + slot)
    top_p = tl.load(top_ps + slot)
    min_p = tl.load(min_ps + slot)
    position = tl.load(num_outputs + slot)
    at = row.to(tl.int64)
    tiles = tl.arange(0, TILES)
    is_tile = tiles < num_tiles
    is_finite = tl.min(tl.load(tile_is_finite + at * num_tiles + tiles, mask=is_tile, other=1), axis=0) != 0
    token = vocab_size * 0
    has_token = is_finite
    if is_finite:
        if _is_cut(temperature, top_k, top_p, min_p):
            per_tile: tl.constexpr = NUM_STRIPS * STRIP // GROUP
            token, best = draw_after_cuts(
                scaled + at * scaled_stride,
                candidates + at * NUM_CANDIDATES,
                groups + at * num_tiles * per_tile,
                group_largest + at * num_tiles * per_tile,
                tile_mass + at * num_tiles,
                top_k,
                top_p,
                min_p,
                position,
                tl.load(seeds + slot),
                vocab_size,
                num_tiles,
                NUM_CANDIDATES,
                GROUP,
                TILES,
                LIST_TILE,
            )
        else:
            bests = tl.load(tile_best + at * num_tiles + tiles, mask=is_tile, other=float("-inf"))
            best = tl.max(bests, axis=0)
            found = tl.load(tile_token + at * num_tiles + tiles, mask=is_tile, other=_NO_TOKEN)
            token = tl.min(tl.where(bests == best, found, _NO_TOKEN), axis=0)
        has_token = best > float("-inf")
    token = tl.where(has_token, token, 0)
    tl.store(token_ids + row, token)
    tl.store(is_ok + row, has_token.to(tl.int8))
    if has_token:
        tl.store(num_outputs + slot, position + 1)
        count = outputs + slot * outputs_stride + token
        tl.store(count, tl.load(count) + 1)
