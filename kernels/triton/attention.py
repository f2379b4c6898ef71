"""Ragged paged attention on a GPU: the choice of tiles and splits, and the launches.

Rows of one query token go to a narrow variant, others to a wide one. What a launch is depends on the padded
numbers of tokens and rows and the block tables' columns, never on lengths, so that a graph can hold it; a
row of seq_len 0 pads its batch, reads nothing and gives zeros.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, NamedTuple

import torch

from ..cpu import attention as specification
from ..ragged_batch import RaggedBatch
from .attention_kernels import attention, merge_splits
from .launch import Dims, Launch, Trait, ceil_div, next_power_of_2, num_processors

_MAX_SPLITS = 32
_KEYS_AT_MOST = 16384
"""Of one program of a decode launch, where there can be so many splits: one long row must not hold up the step."""
_MIN_TILES = 2
"""Of a split; with less there is more to merge than to gain."""
_IS_MERGING = False
"""Whether the last split of a block merges them all, instead of a launch of its own. Right in the interpreter, where
nothing runs at once; to be turned on once a GPU has shown that it is right there, and faster."""
_NUM_ARRIVALS = 1 << 16
_LOG2_E = math.log2(math.e)


class Tiles(NamedTuple):
    block_m: int
    """Rows of the matrix products: query tokens times the heads of a group."""
    tile: int
    """Keys."""
    num_warps: int
    num_stages: int


_DECODE = {
    (2, 64): Tiles(16, 128, 4, 3),
    (2, 128): Tiles(16, 64, 4, 3),
    (2, 256): Tiles(16, 32, 4, 3),
    (4, 64): Tiles(16, 32, 4, 2),
    (4, 128): Tiles(16, 32, 4, 2),
    (4, 256): Tiles(16, 16, 4, 2),
}
"""By bytes of a query's number and columns of a head."""
_PREFILL = {
    (2, 64): Tiles(128, 128, 8, 2),
    (2, 128): Tiles(128, 64, 8, 3),
    (2, 256): Tiles(64, 64, 8, 2),
    (4, 64): Tiles(32, 32, 4, 2),
    (4, 128): Tiles(16, 16, 4, 2),
    (4, 256): Tiles(16, 16, 4, 2),
}


class Heads(NamedTuple):
    """Of a model and its cache; with the window it makes the variant."""

    dtype: torch.dtype
    num_heads: int
    num_kv_heads: int
    head_dim: int
    block_size: int


@cache
def _variant(heads: Heads, window: int | None, is_decode: bool) -> tuple[Tiles, dict[str, Any], tuple[Trait, ...]]:
    group = heads.num_heads // heads.num_kv_heads
    columns = max(16, next_power_of_2(heads.head_dim))
    itemsize = heads.dtype.itemsize
    tiles = (_DECODE if is_decode else _PREFILL)[itemsize, max(64, columns)]
    tiles = tiles._replace(block_m=max(tiles.block_m, next_power_of_2(group)))
    constants = {
        "NUM_HEADS": heads.num_heads,
        "GROUP": group,
        "HEAD_DIM": heads.head_dim,
        "COLUMNS": columns,
        "BLOCK_SIZE": heads.block_size,
        "BLOCK_M": tiles.block_m,
        "BLOCK_Q": 1 if is_decode else tiles.block_m // group,
        "TILE": tiles.tile,
        "MIN_TILES": _MIN_TILES,
        "MOST_TILES": _KEYS_AT_MOST // tiles.tile,
        "WINDOW": window or 0,
        "PRECISION": "ieee" if itemsize == 4 else "tf32",
        "IS_DECODE": is_decode,
    }
    product: tuple[Trait, ...] = () if itemsize == 4 else ("mma",) if is_decode else ("wgmma",)
    return tiles, constants, (*product, "wide loads")


def filling(num_programs: int, processors: int) -> int:
    """Splits of a row that fill the processors twice. A row is cut into more only where it has too many keys: a launch

    has as many as the longest row there could be may need, and what is split is written and read once more.
    """
    return max(1, 2 * processors // num_programs)


def num_splits(num_programs: int, num_keys: int, tile: int, processors: int) -> int:
    """A power of two that fills the processors twice, where there are keys enough for so many splits."""
    wanted = max(filling(num_programs, processors), ceil_div(num_keys, _KEYS_AT_MOST))
    possible = max(1, num_keys // (tile * _MIN_TILES))
    return min(next_power_of_2(wanted), next_power_of_2(possible), _MAX_SPLITS)


@cache
def _arrivals(device: torch.device) -> torch.Tensor:
    """Zeros whenever no launch runs; of one stream at a time."""
    return torch.zeros(_NUM_ARRIVALS, dtype=torch.int32, device=device)


class _Rows(NamedTuple):
    """Some rows of a step, all of one variant."""

    num_tokens: int
    num_rows: int
    cu_q: torch.Tensor
    seq_lens: torch.Tensor
    block_tables: torch.Tensor


def attends(head_dim: int, dtype: torch.dtype, cache_dtype: torch.dtype) -> bool:
    """Whether there is a kernel; else the specification computes, which waits for the device to learn lengths."""
    return head_dim <= 256 and dtype.itemsize in (2, 4) and cache_dtype in (dtype, torch.float8_e4m3fn)


def paged_attention(
    q: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    batch: RaggedBatch,
    scale: float,
    window: int | None,
    cache_scales: tuple[float, float] | None = None,
) -> torch.Tensor:
    """batch.num_decode_rows rows go to the narrow variant; a graph of mixed steps says 0 to have one launch."""
    num_tokens, num_heads, head_dim = q.shape
    if not attends(head_dim, q.dtype, key_cache.dtype):
        return specification.paged_attention(q, key_cache, value_cache, batch, scale, window, cache_scales)
    heads = Heads(q.dtype, num_heads, key_cache.shape[1], head_dim, key_cache.shape[2])
    out = torch.empty((num_tokens, num_heads, head_dim), dtype=q.dtype, device=q.device)
    given = (q, key_cache, value_cache, out)
    key_scale, value_scale = cache_scales or (1.0, 1.0)
    numbers = (scale * key_scale * _LOG2_E, value_scale)
    narrow = batch.num_decode_rows
    if narrow:
        rows = _Rows(narrow, narrow, batch.cu_q, batch.seq_lens, batch.block_tables)
        _attend(given, rows, heads, numbers, window, is_decode=True)
    if narrow < batch.num_rows:
        rows = _Rows(
            num_tokens - narrow,
            batch.num_rows - narrow,
            batch.cu_q[narrow:],
            batch.seq_lens[narrow:],
            batch.block_tables[narrow:],
        )
        _attend(given, rows, heads, numbers, window, is_decode=False)
    return out


def _attend(
    given: tuple[torch.Tensor, ...],
    rows: _Rows,
    heads: Heads,
    numbers: tuple[float, float],
    window: int | None,
    is_decode: bool,
) -> None:
    q, key_cache, value_cache, out = given
    tiles, constants, expects = _variant(heads, window, is_decode)
    if is_decode:
        num_blocks = rows.num_rows
    else:
        # The most there can be, whatever the rows' lengths are.
        num_blocks = rows.num_tokens // constants["BLOCK_Q"] + rows.num_rows
    num_keys = rows.block_tables.shape[1] * heads.block_size
    processors = num_processors(q.device)
    splits = num_splits(num_blocks * heads.num_kv_heads, num_keys, tiles.tile, processors)
    num_partials = q.shape[0] * heads.num_heads * splits if splits > 1 else 0
    workspace = torch.empty(num_partials * (heads.head_dim + 2), dtype=torch.float32, device=q.device)
    arguments = (
        *(q, key_cache, value_cache, rows.block_tables, rows.cu_q, rows.seq_lens, out, workspace),
        *(_arrivals(q.device), *numbers, rows.num_rows, num_partials),
        filling(num_blocks * heads.num_kv_heads, processors),
        *(q.stride(0), key_cache.stride(0), rows.block_tables.stride(0)),
    )
    grid = (num_blocks, heads.num_kv_heads, splits)
    is_merging = _IS_MERGING and num_blocks * heads.num_kv_heads <= _NUM_ARRIVALS
    constants = {**constants, "IS_MERGING": is_merging}
    Launch(attention, grid, arguments, constants, tiles.num_warps, tiles.num_stages, expects).run()
    if splits > 1 and not is_merging:
        first = 0 if is_decode else q.shape[0] - rows.num_tokens
        _merge((workspace, out), numbers[1], num_partials, splits, heads, (first, rows.num_tokens)).run()


def _merge(
    tensors: tuple[Any, Any],
    value_scale: float,
    num_partials: int,
    splits: int,
    heads: Heads,
    tokens: tuple[int, int],
) -> Launch:
    """tensors: workspace and out, or their dtypes; tokens: the first of them, and how many."""
    constants = {
        "NUM_HEADS": heads.num_heads,
        "HEAD_DIM": heads.head_dim,
        "COLUMNS": next_power_of_2(heads.head_dim),
        "MAX_SPLITS": _MAX_SPLITS,
    }
    arguments = (*tensors, value_scale, num_partials, splits, tokens[0])
    return Launch(merge_splits, (tokens[1], heads.num_heads), arguments, constants)


def launches(dims: Dims) -> list[Launch]:
    heads = Heads(dims.dtype, dims.num_heads, dims.num_kv_heads, dims.head_dim, dims.block_size)
    arguments = (
        *(dims.dtype, dims.cache_dtype, dims.cache_dtype, torch.int32, torch.int32, torch.int32),
        *(dims.dtype, torch.float32, torch.int32, 1.0, 1.0, 2, 2, 2),
        (dims.num_heads + 2 * dims.num_kv_heads) * dims.head_dim,
        dims.num_kv_heads * dims.block_size * dims.head_dim,
        2,
    )
    found = [_merge((torch.float32, dims.dtype), 1.0, 2, 2, heads, (0, 1))]
    for window in dims.windows:
        for is_decode in (True, False):
            tiles, constants, expects = _variant(heads, window, is_decode)
            constants = {**constants, "IS_MERGING": _IS_MERGING}
            grid = (1, dims.num_kv_heads, 1)
            found.append(Launch(attention, grid, arguments, constants, tiles.num_warps, tiles.num_stages, expects))
    return found
