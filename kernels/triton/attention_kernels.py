"""The kernels of ragged paged attention: online softmax over blocks, in splits, and the merge of splits.

A program takes BLOCK_Q query tokens of one row with all query heads of one key-value head, as the rows of its
matrix products (flash attention: Dao et al. 2022; splits: Flash-Decoding, 2023; packing of grouped heads and
search for the row: Triton paged attention, arXiv 2511.11581). Knows no host numbers but the grid.
"""

from __future__ import annotations

import triton
import triton.language as tl

_LOWEST = tl.constexpr(-1.0e30)
"""Of scores. Not -inf, of which two make NaN; as a maximum it gives what was summed before a weight of 0."""


@triton.jit
def _row_of_block(cu_q, num_rows, block, BLOCK_Q: tl.constexpr):
    """The row whose query blocks hold `block`; row r's begin at cu_q[r] // BLOCK_Q + r, with gaps between rows."""
    low = 0
    high = num_rows
    while low < high:
        middle = (low + high) // 2
        if tl.load(cu_q + middle) // BLOCK_Q + middle <= block:
            low = middle + 1
        else:
            high = middle
    return low - 1


@triton.jit
def _attend(
    queries,
    positions,
    total,
    highest,
    weight,
    key_cache,
    value_cache,
    table,
    tile_begin,
    tile_end,
    first_key,
    end_key,
    scale,
    block_stride,
    HEAD_DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    WINDOW: tl.constexpr,
    PRECISION: tl.constexpr,
    IS_MASKED: tl.constexpr,
):
    """Tiles of keys from tile_begin to tile_end; all that is neither masked nor padded is loaded without a mask."""
    column = tl.arange(0, COLUMNS)
    is_column = column < HEAD_DIM
    for tile in range(tile_begin, tile_end):
        position = tile * TILE + tl.arange(0, TILE)
        if IS_MASKED:
            is_key = (position >= first_key) & (position < end_key)
            block = tl.load(table + position // BLOCK_SIZE, mask=is_key, other=0).to(tl.int64)
            place = block * block_stride + (position % BLOCK_SIZE) * HEAD_DIM
            is_loaded = is_key[None, :] & is_column[:, None]
            keys = tl.load(key_cache + place[None, :] + column[:, None], mask=is_loaded, other=0.0)
            is_loaded = is_key[:, None] & is_column[None, :]
            values = tl.load(value_cache + place[:, None] + column[None, :], mask=is_loaded, other=0.0)
        else:
            block = tl.load(table + position // BLOCK_SIZE).to(tl.int64)
            place = block * block_stride + (position % BLOCK_SIZE) * HEAD_DIM
            if HEAD_DIM == COLUMNS:
                keys = tl.load(key_cache + place[None, :] + column[:, None])
                values = tl.load(value_cache + place[:, None] + column[None, :])
            else:
                keys = tl.load(key_cache + place[None, :] + column[:, None], mask=is_column[:, None], other=0.0)
                values = tl.load(value_cache + place[:, None] + column[None, :], mask=is_column[None, :], other=0.0)
        scores = tl.dot(queries, keys.to(queries.dtype), input_precision=PRECISION) * scale
        if IS_MASKED:
            is_seen = position[None, :] <= positions[:, None]
            if WINDOW > 0:
                is_seen = is_seen & (position[None, :] > positions[:, None] - WINDOW)
            scores = tl.where(is_seen, scores, _LOWEST)
        higher = tl.maximum(highest, tl.max(scores, 1))
        fading = tl.exp2(highest - higher)
        shares = tl.exp2(scores - higher[:, None])
        weight = weight * fading + tl.sum(shares, 1)
        values = values.to(queries.dtype)
        total = tl.dot(shares.to(queries.dtype), values, total * fading[:, None], input_precision=PRECISION)
        highest = higher
    return total, highest, weight


@triton.jit
def _merge_when_last(
    arrived,
    num_live,
    total,
    highest,
    weight,
    totals,
    after,
    num_partials,
    partial,
    split,
    outs,
    value_scale,
    is_query,
    is_there,
    column,
    HEAD_DIM: tl.constexpr,
):
    """Write a split's share; the last of a block's num_live splits to arrive adds them up and resets the count."""
    tl.store(totals + partial[:, None] * HEAD_DIM + column[None, :], total, mask=is_there)
    tl.store(after + partial, highest, mask=is_query)
    tl.store(after + num_partials + partial, weight, mask=is_query)
    # All warps have written before one of them says so; what others wrote is read from L2.
    tl.debug_barrier()
    if tl.atomic_add(arrived, 1, sem="acq_rel", scope="gpu") == num_live - 1:
        tl.debug_barrier()
        all_total = tl.zeros_like(total)
        all_highest = tl.full(highest.shape, _LOWEST, tl.float32)
        all_weight = tl.zeros_like(weight)
        for live in range(num_live):
            other = partial - split + live
            its_highest = tl.load(after + other, mask=is_query, other=_LOWEST, cache_modifier=".cg")
            its_weight = tl.load(after + num_partials + other, mask=is_query, other=0.0, cache_modifier=".cg")
            places = totals + other[:, None] * HEAD_DIM + column[None, :]
            its_total = tl.load(places, mask=is_there, other=0.0, cache_modifier=".cg")
            higher = tl.maximum(all_highest, its_highest)
            fading, share = tl.exp2(all_highest - higher), tl.exp2(its_highest - higher)
            all_total = all_total * fading[:, None] + its_total * share[:, None]
            all_weight = all_weight * fading + its_weight * share
            all_highest = higher
        result = all_total * (value_scale / tl.where(is_query, all_weight, 1.0))[:, None]
        tl.store(outs, result.to(outs.dtype.element_ty), mask=is_there)
        tl.store(arrived, 0)


@triton.jit(
    do_not_specialize=["num_rows", "num_partials", "filling", "table_stride"],
    do_not_specialize_on_alignment=["block_tables", "cu_q", "seq_lens"],
)
def attention(
    q,
    key_cache,
    value_cache,
    block_tables,
    cu_q,
    seq_lens,
    out,
    workspace,
    arrivals,
    scale,
    value_scale,
    num_rows,
    num_partials,
    filling,
    q_stride,
    block_stride,
    table_stride,
    NUM_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    TILE: tl.constexpr,
    MIN_TILES: tl.constexpr,
    MOST_TILES: tl.constexpr,
    WINDOW: tl.constexpr,
    PRECISION: tl.constexpr,
    IS_DECODE: tl.constexpr,
    IS_MERGING: tl.constexpr,
):
    """Grid: query blocks (rows, where IS_DECODE: each of one token), key-value heads, splits of the keys.

    scale: of scores, in powers of two. filling: splits of a row that fill the device. workspace: num_partials sums of
    values [HEAD_DIM], then as many maxima, then weights; one for each token, query head and split. Splits without
    work say so by a weight of 0; where one split does it all, it writes the result, and the merge has nothing to do.
    Where IS_MERGING, the last of a block's splits merges them, counted in arrivals [query blocks, key-value heads],
    zeros before and after.
    """
    kv_head = tl.program_id(1)
    split = tl.program_id(2)
    num_splits = tl.num_programs(2)
    if IS_DECODE:
        row = tl.program_id(0)
        start = row
        q_len = 1
        first_query = 0
    else:
        # The last blocks of a row have the most keys, so they begin first.
        block = tl.num_programs(0) - 1 - tl.program_id(0)
        row = _row_of_block(cu_q, num_rows, block, BLOCK_Q)
        start = tl.load(cu_q + row)
        q_len = tl.load(cu_q + row + 1) - start
        first_query = (block - (start // BLOCK_Q + row)) * BLOCK_Q
        if first_query >= q_len:
            return
    seq_len = tl.load(seq_lens + row)
    num_computed = seq_len - q_len
    end_key = tl.minimum(num_computed + first_query + BLOCK_Q, seq_len)
    first_key = 0
    if WINDOW > 0:
        first_key = tl.maximum(num_computed + first_query - WINDOW + 1, 0)
    first_tile = first_key // TILE
    num_tiles = tl.maximum((end_key + TILE - 1) // TILE - first_tile, 0)
    num_wanted = tl.minimum(tl.maximum((num_tiles + MOST_TILES - 1) // MOST_TILES, filling), num_splits)
    tiles_each = tl.maximum((num_tiles + num_wanted - 1) // num_wanted, MIN_TILES)
    tile_begin = first_tile + split * tiles_each
    tile_end = tl.minimum(tile_begin + tiles_each, first_tile + num_tiles)

    packed = tl.arange(0, BLOCK_M)
    query = first_query + packed // GROUP
    head = kv_head * GROUP + packed % GROUP
    is_query = (packed < BLOCK_Q * GROUP) & (query < q_len)
    token = (start + query).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    is_there = is_query[:, None] & (column < HEAD_DIM)[None, :]
    total = tl.zeros([BLOCK_M, COLUMNS], tl.float32)
    highest = tl.full([BLOCK_M], _LOWEST, tl.float32)
    weight = tl.zeros([BLOCK_M], tl.float32)
    if tile_begin < tile_end:
        places = token[:, None] * q_stride + head[:, None] * HEAD_DIM + column[None, :]
        queries = tl.load(q + places, mask=is_there, other=0.0)
        positions = num_computed + query
        keys_of_head = key_cache + kv_head.to(tl.int64) * (BLOCK_SIZE * HEAD_DIM)
        values_of_head = value_cache + kv_head.to(tl.int64) * (BLOCK_SIZE * HEAD_DIM)
        table = block_tables + row.to(tl.int64) * table_stride
        masked_begin = tile_begin
        if not IS_DECODE and WINDOW == 0:
            # Tiles that every query sees wholly.
            masked_begin = tl.maximum(tl.minimum((num_computed + first_query + 1) // TILE, tile_end), tile_begin)
            total, highest, weight = _attend(
                queries, positions, total, highest, weight, keys_of_head, values_of_head, table,
                tile_begin, masked_begin, first_key, end_key, scale, block_stride,
                HEAD_DIM, COLUMNS, BLOCK_SIZE, TILE, WINDOW, PRECISION, False,
            )  # fmt: skip
        total, highest, weight = _attend(
            queries, positions, total, highest, weight, keys_of_head, values_of_head, table,
            masked_begin, tile_end, first_key, end_key, scale, block_stride,
            HEAD_DIM, COLUMNS, BLOCK_SIZE, TILE, WINDOW, PRECISION, True,
        )  # fmt: skip

    outs = out + token[:, None] * (NUM_HEADS * HEAD_DIM) + head[:, None] * HEAD_DIM + column[None, :]
    partial = (token * NUM_HEADS + head) * num_splits + split
    after = workspace + num_partials.to(tl.int64) * HEAD_DIM
    if num_tiles <= tiles_each:
        if split == 0:
            # Rows of no keys, which pad a graph's batch, come out as zeros.
            result = total * (value_scale / tl.where(weight > 0, weight, 1.0))[:, None]
            tl.store(outs, result.to(out.dtype.element_ty), mask=is_there)
        weight = tl.zeros([BLOCK_M], tl.float32)
    elif IS_MERGING:
        if tile_begin < tile_end:
            num_live = (num_tiles + tiles_each - 1) // tiles_each
            arrived = arrivals + tl.program_id(0) * (NUM_HEADS // GROUP) + kv_head
            _merge_when_last(
                arrived, num_live, total, highest, weight, workspace, after, num_partials, partial, split,
                outs, value_scale, is_query, is_there, column, HEAD_DIM,
            )  # fmt: skip
    elif tile_begin < tile_end:
        tl.store(workspace + partial[:, None] * HEAD_DIM + column[None, :], total, mask=is_there)
    if not IS_MERGING and num_splits > 1:
        tl.store(after + partial, highest, mask=is_query)
        tl.store(after + num_partials + partial, weight, mask=is_query)


@triton.jit(do_not_specialize=["num_partials", "num_splits", "first_token"])
def merge_splits(
    workspace,
    out,
    value_scale,
    num_partials,
    num_splits,
    first_token,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    COLUMNS: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
):
    """Grid: tokens from first_token on, query heads. See `attention`."""
    item = (first_token + tl.program_id(0)).to(tl.int64) * NUM_HEADS + tl.program_id(1)
    split = tl.arange(0, MAX_SPLITS)
    column = tl.arange(0, COLUMNS)
    partial = item * num_splits + split
    after = workspace + num_partials.to(tl.int64) * HEAD_DIM
    weight = tl.load(after + num_partials + partial, mask=split < num_splits, other=0.0)
    is_live = weight > 0
    if tl.max(weight, 0) > 0:
        highest = tl.load(after + partial, mask=is_live, other=_LOWEST)
        shares = tl.where(is_live, tl.exp2(highest - tl.max(highest, 0)), 0.0)
        places = workspace + partial[:, None] * HEAD_DIM + column[None, :]
        totals = tl.load(places, mask=is_live[:, None] & (column < HEAD_DIM)[None, :], other=0.0)
        result = tl.sum(totals * shares[:, None], 0) * (value_scale / tl.sum(weight * shares, 0))
        tl.store(out + item * HEAD_DIM + column, result.to(out.dtype.element_ty), mask=column < HEAD_DIM)
