"""Logprobs of chosen tokens, their ranks, and the likeliest tokens: two launches over raw logits, no sort.

The first goes over all logits once, a tile a program: mass, how many are above the chosen one, and the
largest of every group of 128. The second, a program a row, adds up and takes the likeliest
one by one, each from the group with the largest left: only these groups are read again.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import Dims, Launch, ceil_div, next_power_of_2

_TILE = 4096
_GROUP = 128
_NO_TOKEN = tl.constexpr(2**31 - 1)


@triton.jit(do_not_specialize_on_alignment=["token_ids"])
def _survey(
    logits,
    logits_stride,
    token_ids,
    tile_largest,
    tile_mass,
    tile_above,
    group_largest,
    vocab_size,
    TILE: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Grid: rows, tiles."""
    row = tl.program_id(0).to(tl.int64)
    tile = tl.program_id(1)
    columns = tile * TILE + tl.arange(0, TILE)
    logits += row * logits_stride
    values = tl.load(logits + columns, mask=columns < vocab_size, other=float("-inf")).to(tl.float32)
    chosen = tl.load(logits + tl.load(token_ids + row)).to(tl.float32)
    groups: tl.constexpr = TILE // GROUP
    largest = tl.max(tl.reshape(values, [groups, GROUP]), axis=1)
    at = row * tl.num_programs(1) + tile
    tl.store(group_largest + at * groups + tl.arange(0, groups), largest)
    top = tl.max(largest, axis=0)
    bound = tl.where(top == float("-inf"), 0.0, top)
    tl.store(tile_largest + at, top)
    tl.store(tile_mass + at, tl.sum(tl.exp(values - bound), axis=0))
    tl.store(tile_above + at, tl.sum((values > chosen).to(tl.int32), axis=0))


@triton.jit(do_not_specialize=["num_top"], do_not_specialize_on_alignment=["token_ids"])
def _report(
    logits,
    logits_stride,
    token_ids,
    tile_largest,
    tile_mass,
    tile_above,
    group_largest,
    logprobs,
    ranks,
    top_ids,
    top_logprobs,
    vocab_size,
    num_tiles,
    num_top,
    PER_TILE: tl.constexpr,
    GROUP: tl.constexpr,
    TILES: tl.constexpr,
):
    """Grid: rows. TILES is num_tiles rounded up to a power of two, PER_TILE the groups of a tile."""
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES)
    is_tile = tile < num_tiles
    logits += row * logits_stride
    at = row * num_tiles
    tops = tl.load(tile_largest + at + tile, mask=is_tile, other=float("-inf"))
    largest = tl.max(tops, axis=0)
    masses = tl.load(tile_mass + at + tile, mask=is_tile, other=0.0)
    total = tl.log(tl.sum(tl.where(masses > 0, masses * tl.exp(tops - largest), 0.0), axis=0)) + largest
    chosen = tl.load(logits + tl.load(token_ids + row)).to(tl.float32)
    tl.store(logprobs + row, chosen - total)
    above = tl.sum(tl.load(tile_above + at + tile, mask=is_tile, other=0), axis=0)
    tl.store(ranks + row, (above + 1).to(tl.int64))

    group = tl.arange(0, TILES * PER_TILE)
    left = tl.load(group_largest + at * PER_TILE + group, mask=group < num_tiles * PER_TILE, other=float("-inf"))
    # Groups that lie behind the vocabulary hold nothing, not even -inf.
    is_group = group * GROUP < vocab_size
    taken = tl.zeros([TILES * PER_TILE], tl.int32) - 1
    for place in range(num_top):
        best = tl.max(left, axis=0)
        holder = tl.min(tl.where((left == best) & is_group, group, _NO_TOKEN), axis=0)
        # A row of NaN has none; what it is told must still be within bounds.
        holder = tl.where(holder == _NO_TOKEN, 0, holder)
        # Of this group those that come after what has been taken: smaller, or as large with a higher id.
        last_taken = tl.max(tl.where(group == holder, taken, -1), axis=0)
        ids = holder * GROUP + tl.arange(0, GROUP)
        found = tl.load(logits + ids, mask=ids < vocab_size, other=float("-inf")).to(tl.float32)
        is_left = (ids < vocab_size) & ((found < best) | ((found == best) & (ids > last_taken)))
        token = tl.min(tl.where(is_left & (found == best), ids, _NO_TOKEN), axis=0)
        token = tl.minimum(token, vocab_size - 1)
        tl.store(top_ids + row * num_top + place, token.to(tl.int64))
        tl.store(top_logprobs + row * num_top + place, best - total)
        is_left = is_left & (ids != token)
        following = tl.max(tl.where(is_left, found, float("-inf")), axis=0)
        is_holder = group == holder
        # Below the value that was taken no id has been taken yet.
        taken = tl.where(is_holder, tl.where(following == best, token, -1), taken)
        is_group = is_group & ((tl.max(is_left.to(tl.int32), axis=0) != 0) | ~is_holder)
        left = tl.where(is_holder, following, left)


def token_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    outputs, launches = _launches(logits, token_ids, min(num_top, logits.shape[1]))
    if logits.shape[0]:
        for launch in launches:
            launch.run()
    return outputs


def _launches(
    logits: torch.Tensor, token_ids: torch.Tensor, num_top: int
) -> tuple[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], list[Launch]]:
    """What token_logprobs returns, and what fills it."""
    num_rows, vocab_size = logits.shape
    num_tiles = ceil_div(vocab_size, _TILE)
    per_tile = _TILE // _GROUP

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(num_rows, *shape, dtype=dtype, device=logits.device)

    outputs = empty(), empty(dtype=torch.int64), empty(num_top, dtype=torch.int64), empty(num_top)
    tiles = empty(num_tiles), empty(num_tiles), empty(num_tiles, dtype=torch.int32), empty(num_tiles * per_tile)
    given = (logits, logits.stride(0), token_ids, *tiles)
    survey = Launch(
        _survey,
        (num_rows, num_tiles),
        (*given, vocab_size),
        {"TILE": _TILE, "GROUP": _GROUP},
        num_warps=8,
        expects=("wide loads",) if logits.stride(0) % 16 == 0 else (),
    )
    report = Launch(
        _report,
        (num_rows,),
        (*given, *outputs, vocab_size, num_tiles, num_top),
        {"PER_TILE": per_tile, "GROUP": _GROUP, "TILES": next_power_of_2(num_tiles)},
    )
    return outputs, [survey, report]


def launches(dims: Dims) -> list[Launch]:
    logits = torch.empty(2, dims.vocab_size, dtype=torch.float32, device="meta")
    return _launches(logits, torch.empty(2, dtype=torch.int64, device="meta"), 20)[1]
