"""Ragged paged attention in torch: rows of one query token in padded groups, longer ones each alone.

Blocks are gathered as rows of the flattened cache (one index_select a cache), by indices that all
layers of a step share. Entries past a row's end are zeroed after the gather, so that what lies
there, even NaN, has no influence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ..ragged_batch import Ints, RaggedBatch
from .padded_attention import attend_padded

_GROUP_TOKENS = 32768
"""Padded tokens gathered at once for decode rows; bounds the memory a layer needs."""
_MASK_TOKENS = 4 << 20
"""Entries of a prefill mask; longer chunks are cut along their queries."""


class DecodeGroup(NamedTuple):
    """Rows of one query token whose contexts are of like length."""

    rows: torch.Tensor | None
    """int64 indices into q; None for all of it."""
    num_rows: int
    gather: torch.Tensor
    """int32 [rows * Hkv * blocks] into the cache as [num_blocks * Hkv, block_size * D]."""
    outside: torch.Tensor
    """int64 indices into the gathered [rows * Hkv * tokens], of what no row may see."""
    mask: torch.Tensor | None
    """Added to scores, [rows, 1, 1, tokens]."""


class PrefillPart(NamedTuple):
    """Some consecutive query tokens of one row."""

    start: int
    end: int
    gather: torch.Tensor
    num_keys: int
    mask: torch.Tensor | None
    """Added to scores [queries, num_keys]; None: as many keys as queries, plainly causal."""


class _Derived(NamedTuple):
    groups: list[DecodeGroup]
    parts: list[PrefillPart]


def paged_attention(
    q: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    batch: RaggedBatch,
    scale: float,
    window: int | None,
    cache_scales: tuple[float, float] | None = None,
) -> torch.Tensor:
    if not batch.is_host_known:

        def attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, there: RaggedBatch) -> torch.Tensor:
            return paged_attention(q, keys, values, there, scale, window, cache_scales)

        return attend_padded(attend, q, key_cache, value_cache, batch)
    scales = cache_scales or (1.0, 1.0)
    num_kv_heads = key_cache.shape[1]
    key = ("torch", window, num_kv_heads, q.dtype)
    derived = batch.derived.get(key)
    if derived is None:
        derived = _derive(batch, window, num_kv_heads, q)
        batch.derived[key] = derived
    if len(derived.groups) == 1 and derived.groups[0].rows is None and not derived.parts:
        return _decode(q, key_cache, value_cache, derived.groups[0], scale, scales)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    for group in derived.groups:
        if group.rows is None:
            out[: group.num_rows] = _decode(q[: group.num_rows], key_cache, value_cache, group, scale, scales)
        else:
            out[group.rows] = _decode(q[group.rows], key_cache, value_cache, group, scale, scales)
    for part in derived.parts:
        out[part.start : part.end] = _prefill(q[part.start : part.end], key_cache, value_cache, part, scale, scales)
    return out


def attend_long_rows(
    q: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    batch: RaggedBatch,
    rows: tuple[int, ...],
    scale: float,
    window: int | None,
    out: torch.Tensor,
) -> None:
    """What paged_attention does of the given rows of several query tokens, into their part of out [T, Hq, D]."""
    num_kv_heads = key_cache.shape[1]
    key = ("torch", rows, window, num_kv_heads, q.dtype)
    if key not in batch.derived:
        batch.derived[key] = [part for row in rows for part in _prefill_parts(batch, row, window, num_kv_heads, q)]
    for part in batch.derived[key]:
        out[part.start : part.end] = _prefill(q[part.start : part.end], key_cache, value_cache, part, scale)


def _gathered(
    cache: torch.Tensor, index: torch.Tensor, num_rows: int, dtype: torch.dtype, scale: float
) -> torch.Tensor:
    """[num_rows, Hkv, tokens, D] of `dtype`: what an fp8 cache holds is multiplied by `scale`."""
    num_blocks, num_kv_heads, block_size, head_dim = cache.shape
    flat = cache.view(num_blocks * num_kv_heads, block_size * head_dim)
    if cache.dtype.itemsize > 1:
        return flat.index_select(0, index).view(num_rows, num_kv_heads, -1, head_dim)
    stored = flat.view(torch.uint8).index_select(0, index).view(cache.dtype)
    return (stored.float() * scale).to(dtype).view(num_rows, num_kv_heads, -1, head_dim)


def _decode(
    q: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    group: DecodeGroup,
    scale: float,
    cache_scales: tuple[float, float] = (1.0, 1.0),
) -> torch.Tensor:
    """q [rows, Hq, D] -> the same; query heads of one key-value head are the queries of one sequence.

    SDPA and not matmul: oneDNN would keep compiled code for every context length it has met.
    """
    keys = _gathered(key_cache, group.gather, group.num_rows, q.dtype, cache_scales[0])
    values = _gathered(value_cache, group.gather, group.num_rows, q.dtype, cache_scales[1])
    if group.outside.numel():
        keys.view(-1, keys.shape[-1]).index_fill_(0, group.outside, 0.0)
        values.view(-1, keys.shape[-1]).index_fill_(0, group.outside, 0.0)
    grouped = q.reshape(group.num_rows, keys.shape[1], -1, q.shape[-1])
    out = F.scaled_dot_product_attention(grouped, keys, values, attn_mask=group.mask, scale=scale)
    return out.reshape(q.shape)


def _prefill(
    q: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    part: PrefillPart,
    scale: float,
    cache_scales: tuple[float, float] = (1.0, 1.0),
) -> torch.Tensor:
    """q [queries, Hq, D] of one row -> the same."""
    keys = _gathered(key_cache, part.gather, 1, q.dtype, cache_scales[0])[0, :, None, : part.num_keys]
    values = _gathered(value_cache, part.gather, 1, q.dtype, cache_scales[1])[0, :, None, : part.num_keys]
    num_queries, num_heads, head_dim = q.shape
    num_kv_heads = keys.shape[0]
    num_per_kv = num_heads // num_kv_heads
    grouped = q.view(num_queries, num_kv_heads, num_per_kv, head_dim).permute(1, 2, 0, 3)
    out = F.scaled_dot_product_attention(
        grouped,
        keys.expand(-1, num_per_kv, -1, -1),
        values.expand(-1, num_per_kv, -1, -1),
        attn_mask=part.mask,
        is_causal=part.mask is None,
        scale=scale,
    )
    return out.permute(2, 0, 1, 3).reshape(q.shape)


def _derive(batch: RaggedBatch, window: int | None, num_kv_heads: int, q: torch.Tensor) -> _Derived:
    parts = []
    for row in range(batch.num_decode_rows, batch.num_rows):
        parts += _prefill_parts(batch, row, window, num_kv_heads, q)
    return _Derived(_decode_groups(batch, window, num_kv_heads, q), parts)


def _first_blocks(first_keys: Ints, block_size: int) -> Ints:
    return np.maximum(first_keys, 0) // block_size


def _decode_groups(batch: RaggedBatch, window: int | None, num_kv_heads: int, q: torch.Tensor) -> list[DecodeGroup]:
    """Cut so that no group is padded to more than about twice its tokens."""
    count = batch.num_decode_rows
    if not count:
        return []
    lens = batch.host_seq_lens[:count].astype(np.int64)
    first = _first_blocks(lens - window, batch.block_size) if window else np.zeros_like(lens)
    num_blocks = -(-lens // batch.block_size) - first
    order = np.argsort(-num_blocks, kind="stable")
    groups, start = [], 0
    while start < count:
        longest = int(num_blocks[order[start]])
        most = max(1, _GROUP_TOKENS // (longest * batch.block_size))
        end = start + 1
        while end < count and end - start < most and (longest <= 8 or num_blocks[order[end]] * 2 >= longest):
            end += 1
        rows = None if end - start == count else order[start:end]
        groups.append(_decode_group(batch, rows, lens, first, longest, window, num_kv_heads, q))
        start = end
    return groups


def _decode_group(
    batch: RaggedBatch,
    rows: Ints | None,
    lens: Ints,
    first: Ints,
    num_blocks: int,
    window: int | None,
    num_kv_heads: int,
    q: torch.Tensor,
) -> DecodeGroup:
    """Of the given decode rows (None: all), each `num_blocks` blocks from its `first`."""
    tables = batch.host_block_tables
    chosen = np.arange(batch.num_decode_rows) if rows is None else rows
    lens, first = lens[chosen], first[chosen]
    places = np.minimum(first[:, None] + np.arange(num_blocks), tables.shape[1] - 1)
    blocks = tables[chosen[:, None], places].astype(np.int64)
    gather = blocks[:, None, :] * num_kv_heads + np.arange(num_kv_heads)[:, None]
    positions = first[:, None] * batch.block_size + np.arange(num_blocks * batch.block_size)
    is_outside = positions >= lens[:, None]
    if window:
        is_outside |= positions < (lens - window)[:, None]
    per_head = np.broadcast_to(is_outside[:, None, :], (len(chosen), num_kv_heads, positions.shape[1]))
    mask = None
    if is_outside.any():
        mask = torch.zeros((len(chosen), 1, 1, positions.shape[1]), dtype=q.dtype)
        mask.masked_fill_(torch.from_numpy(is_outside)[:, None, None], -torch.inf)
        mask = mask.to(q.device)
    return DecodeGroup(
        rows=None if rows is None else torch.from_numpy(rows).to(q.device),
        num_rows=len(chosen),
        gather=torch.from_numpy(gather.reshape(-1)).to(q.device),
        outside=torch.from_numpy(np.flatnonzero(per_head)).to(q.device),
        mask=mask,
    )


def _prefill_parts(
    batch: RaggedBatch, row: int, window: int | None, num_kv_heads: int, q: torch.Tensor
) -> list[PrefillPart]:
    start, end, num_keys = int(batch.host_cu_q[row]), int(batch.host_cu_q[row + 1]), int(batch.host_seq_lens[row])
    num_computed = num_keys - (end - start)
    if num_computed == 0 and (not window or num_keys <= window):
        return [PrefillPart(start, end, _row_gather(batch, row, 0, num_keys, num_kv_heads, q), num_keys, None)]
    step = max(1, _MASK_TOKENS // num_keys)
    parts = []
    for low in range(start, end, step):
        high = min(low + step, end)
        queries = np.arange(num_computed + low - start, num_computed + high - start)
        first = int(queries[0]) - window + 1 if window else 0
        first = max(0, first) // batch.block_size * batch.block_size
        keys = np.arange(first, int(queries[-1]) + 1)
        is_hidden = keys > queries[:, None]
        if window:
            is_hidden |= keys <= queries[:, None] - window
        mask = torch.zeros(is_hidden.shape, dtype=q.dtype).masked_fill_(torch.from_numpy(is_hidden), -torch.inf)
        gather = _row_gather(batch, row, first, int(queries[-1]) + 1, num_kv_heads, q)
        parts.append(PrefillPart(low, high, gather, len(keys), mask.to(q.device)))
    return parts


def _row_gather(batch: RaggedBatch, row: int, first: int, end: int, num_kv_heads: int, q: torch.Tensor) -> torch.Tensor:
    """Of tokens first (a block's beginning) to end of one row, heads outermost."""
    blocks = batch.host_block_tables[row, first // batch.block_size : -(-end // batch.block_size)].astype(np.int64)
    gather = blocks[None, :] * num_kv_heads + np.arange(num_kv_heads)[:, None]
    return torch.from_numpy(gather.reshape(-1)).to(q.device)
