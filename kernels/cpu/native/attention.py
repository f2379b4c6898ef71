"""Paged attention, native: what a step's rows mean for it is worked out once and kept with the batch.

The context of a row of one query token is cut at fixed places, so that one long row keeps all threads
busy. In float32 everything is float32, and a row's result does not depend on the others. In bfloat16 the
parts that several rows keep in the same blocks are gone through together, where sums are made in another
order: a row's result then depends on whether others share its blocks, within the bound below. In bfloat16,
where the CPU multiplies it, scores are sums of exact products in float32, and a weight is rounded once,
by 2^-9 of it; the weights are divided by the sum of the rounded ones. So an output element is off by at
most 2^-8 of the greatest value seen, and rounded once more when it is written.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from ...ragged_batch import Ints, RaggedBatch
from .. import attention as torch_attention
from ..padded_attention import attend_padded
from .library import FLOAT, LONG, POINTER, function

_PART = 256
"""Tokens of a decode row's context in one chunk of work: kMaxPart in attention.h."""
_TILE_ROWS = 144
"""Query tokens times query heads of a kv head in one chunk of work."""
_LONG_ROW = 64
"""Query tokens from which on torch computes a row where the CPU has matrix registers (see torch_takes_long_rows)."""
_FEWEST_SHARING = 4
"""Rows that make a group of the parts they share."""
_PARTIAL_EXTRA = 2
"""kPartialExtra in attention.h."""
_MAX_HEAD_DIM = 512
"""kMaxHeadDim in attention.h."""


class _Plan(NamedTuple):
    address: int
    """Of attention.h's Plan: its fields as int64."""
    fields: Ints
    kept: tuple[object, ...]
    """What the fields point to."""
    long_rows: tuple[int, ...]
    """Torch's."""


_native = function("paged_attention", POINTER, POINTER, LONG, POINTER, POINTER, POINTER, FLOAT)


def paged_attention(
    q: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    batch: RaggedBatch,
    scale: float,
    window: int | None,
) -> torch.Tensor:
    if not batch.is_host_known:

        def attend(q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, there: RaggedBatch) -> torch.Tensor:
            return paged_attention(q, keys, values, there, scale, window)

        return attend_padded(attend, q, key_cache, value_cache, batch)
    shape = q.shape
    key = (window, q.dtype, shape, q.stride(), key_cache.shape, key_cache.stride(), value_cache.stride())
    if key not in batch.derived:
        batch.derived[key] = _plan(q, key_cache, value_cache, batch, window)
    plan: _Plan | None = batch.derived[key]
    if plan is None or scale <= 0:
        return torch_attention.paged_attention(q, key_cache, value_cache, batch, scale, window)
    out = torch.empty(shape, dtype=q.dtype)
    _native(
        plan.address, q.data_ptr(), q.stride(0), key_cache.data_ptr(), value_cache.data_ptr(), out.data_ptr(), scale
    )
    if plan.long_rows:
        torch_attention.attend_long_rows(q, key_cache, value_cache, batch, plan.long_rows, scale, window, out)
    return out


@functools.cache
def torch_takes_long_rows() -> bool:
    """Whether this CPU multiplies bfloat16 by AMX, which torch's attention uses and the tiles here do not.

    Without it (Zen 4, 512 tokens, bench/results/kernels-a.json) torch takes 3.6 times as long as the tiles.
    """
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return False


def _is_taken(q: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor) -> bool:
    head_dim = q.shape[2]
    in_place = (key_cache.shape[2] * head_dim, head_dim, 1)
    return (
        q.dtype in (torch.bfloat16, torch.float32)
        and q.dtype == key_cache.dtype == value_cache.dtype
        and q.device.type == key_cache.device.type == value_cache.device.type == "cpu"
        and head_dim % 16 == 0
        and head_dim <= _MAX_HEAD_DIM
        and q.stride()[1:] == (head_dim, 1)
        and key_cache.shape == value_cache.shape
        and key_cache.stride() == value_cache.stride()
        and key_cache.stride()[1:] == in_place
    )


def _plan(
    q: torch.Tensor, key_cache: torch.Tensor, value_cache: torch.Tensor, batch: RaggedBatch, window: int | None
) -> _Plan | None:
    """None: a case for torch. Raises IndexError for block ids that are none."""
    if not _is_taken(q, key_cache, value_cache):
        return None
    num_blocks, num_kv_heads, block_size, head_dim = key_cache.shape
    num_heads = q.shape[1]
    tables = np.ascontiguousarray(batch.host_block_tables, np.int32)
    if tables.view(np.uint32).max(initial=0) >= num_blocks or batch.max_seq_len > tables.shape[1] * block_size:
        raise IndexError(f"a block table names a block that is none of {num_blocks}, or has too few")
    cu_q = np.ascontiguousarray(batch.host_cu_q, np.int32)
    seq_lens = np.ascontiguousarray(batch.host_seq_lens, np.int32)
    parts = _parts(seq_lens[: batch.num_decode_rows], window)
    groups = np.empty((0, 2), np.int32)
    if q.dtype == torch.bfloat16:
        parts, groups = _grouped(parts, tables, block_size, max(1, _TILE_ROWS // (num_heads // num_kv_heads)))
    long_rows: tuple[int, ...] = ()
    if q.dtype == torch.bfloat16 and torch_takes_long_rows():
        long_rows = tuple(np.flatnonzero(np.diff(cu_q) >= _LONG_ROW).tolist())
    tiles = _tiles(cu_q, seq_lens, batch.num_decode_rows, num_heads // num_kv_heads, long_rows)
    has_partials = len(parts) > batch.num_decode_rows
    partials = torch.empty(len(parts) * num_heads * (head_dim + _PARTIAL_EXTRA) if has_partials else 0)
    num_finished = np.zeros((batch.num_decode_rows, num_kv_heads), np.int32)
    fields = np.array(
        [
            num_heads,
            num_kv_heads,
            head_dim,
            block_size,
            key_cache.stride(0),
            key_cache.stride(1),
            window or 0,
            q.dtype == torch.bfloat16,
            tables.ctypes.data,
            tables.shape[1],
            cu_q.ctypes.data,
            seq_lens.ctypes.data,
            groups[0, 0] if len(groups) else len(parts),
            parts.ctypes.data,
            len(groups),
            groups.ctypes.data,
            len(tiles),
            tiles.ctypes.data,
            partials.data_ptr(),
            num_finished.ctypes.data,
        ],
        np.int64,
    )
    kept = (tables, cu_q, seq_lens, parts, groups, tiles, partials, num_finished)
    return _Plan(fields.ctypes.data, fields, kept, long_rows)


def _parts(lens: Ints, window: int | None) -> Ints:
    """int32 [parts, 6], the columns of attention.h's Part: cut at multiples of _PART, and in their order."""
    rows = np.arange(len(lens))
    first = np.maximum(lens - window, 0) if window else np.zeros_like(lens)
    counts = (lens - 1) // _PART - first // _PART + 1
    starts = np.cumsum(counts) - counts
    rows = np.repeat(rows, counts)
    slots = np.arange(len(rows))
    begins = (slots - starts[rows] + first[rows] // _PART) * _PART
    columns = (rows, np.maximum(begins, first[rows]), np.minimum(begins + _PART, lens[rows]), slots)
    parts = np.stack((*columns, starts[rows], counts[rows]), axis=1).astype(np.int32)
    return parts[np.argsort(begins, kind="stable")]


def _grouped(parts: Ints, tables: Ints, block_size: int, most: int) -> tuple[Ints, Ints]:
    """The parts, those of groups last, and int32 [groups, 2], the columns of attention.h's Group.

    A group is at most `most` whole parts of as many rows that are the same tokens in the same blocks.
    """
    whole = np.flatnonzero(parts[:, 2] - parts[:, 1] == _PART)
    begins = parts[whole, 1].astype(np.int64)
    keys = begins << 32 | tables[parts[whole, 0], begins // block_size]
    in_order = np.sort(keys)
    is_many = in_order[_FEWEST_SHARING - 1 :] == in_order[: 1 - _FEWEST_SHARING]
    if not is_many.any():
        return parts, np.empty((0, 2), np.int32)
    groups: list[Ints] = []
    for key in np.unique(in_order[_FEWEST_SHARING - 1 :][is_many]):
        alike, begin = whole[keys == key], int(key >> 32)
        blocks = tables[parts[alike, 0], begin // block_size : (begin + _PART - 1) // block_size + 1]
        for same in _equal_rows(blocks):
            if len(same) >= _FEWEST_SHARING:
                groups += np.array_split(alike[same], -(-len(same) // most))
    is_alone = np.ones(len(parts), np.bool_)
    is_alone[np.concatenate(groups or [whole[:0]])] = False
    ends = np.cumsum([len(group) for group in groups]) + is_alone.sum()
    order = np.concatenate((np.flatnonzero(is_alone), *groups))
    begins = ends - [len(group) for group in groups]
    return parts[order], np.stack((begins, ends), axis=1).astype(np.int32)


def _equal_rows(rows: Ints) -> list[Ints]:
    """Indices of the rows of a matrix, those of equal rows together."""
    if (rows == rows[0]).all():
        return [np.arange(len(rows))]
    _, kinds = np.unique(rows, axis=0, return_inverse=True)
    kinds = kinds.reshape(-1)
    return [np.flatnonzero(kinds == kind) for kind in range(int(kinds.max()) + 1)]


def _tiles(cu_q: Ints, seq_lens: Ints, first_row: int, heads_per_kv: int, left_out: tuple[int, ...]) -> Ints:
    """int32 [tiles, 3], the columns of attention.h's Tile: those that see most come first."""
    most = max(1, _TILE_ROWS // heads_per_kv)
    tiles = []
    for row in sorted(set(range(first_row, len(seq_lens))) - set(left_out)):
        num_queries = int(cu_q[row + 1] - cu_q[row])
        before = int(seq_lens[row]) - num_queries
        step = -(-num_queries // -(-num_queries // most)) if num_queries else 1
        for begin in range(0, num_queries, step):
            end = min(begin + step, num_queries)
            tiles.append((before + end, row, begin, end))
    tiles.sort(reverse=True)
    return np.array([tile[1:] for tile in tiles], np.int32).reshape(-1, 3)


def check() -> None:
    """A batch of decode and prefill rows against torch's. Raises AssertionError."""
    lens, cu_q = np.array([5, 300, 1, 90], np.int32), np.array([0, 1, 2, 3, 23], np.int32)
    tables = np.arange(4 * 19, dtype=np.int32)[::-1].reshape(4, 19).copy()
    numbers = torch.arange(2 * 4 * 19 * 2 * 16 * 32).view(2, 4 * 19, 2, 16, 32)
    columns = (tables, cu_q, lens)
    on_device = (torch.from_numpy(tables), torch.from_numpy(cu_q), torch.from_numpy(lens))
    for dtype in (torch.float32, torch.bfloat16):
        keys, values = (numbers % 8191 / 701).sin().to(dtype)
        q = (numbers[0].view(-1, 4, 32)[:23] / 7).cos().to(dtype)
        for window in (None, 40):
            results = []
            for compute in (paged_attention, torch_attention.paged_attention):
                batch = RaggedBatch(*on_device, *columns, 16)
                results.append(compute(q, keys, values, batch, 0.5, window).float())
            tolerance = 1e-5 if dtype == torch.float32 else 2e-2
            if not torch.allclose(*results, rtol=tolerance, atol=tolerance):
                raise AssertionError(f"paged_attention in {dtype}, window {window}")
