"""Ragged paged attention against the specification in float32: all variants, within guards, among NaN."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from guards import Guards, poison, relative_error

from quire.kernels import RaggedBatch, cpu

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "fp8": torch.float8_e4m3fn}
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}
SCALE = 0.2


class Case(NamedTuple):
    q: torch.Tensor
    keys: torch.Tensor
    values: torch.Tensor
    batch: RaggedBatch
    """On the device, entries of the tables past a row's end, and before all its windows, are no blocks."""
    expected: torch.Tensor


def make_case(
    rows: list[tuple[int, int]],
    heads: tuple[int, int, int],
    block_size: int,
    dtypes: tuple[str, str],
    guards: Guards,
    window: int | None = None,
    scales: tuple[float, float] | None = None,
) -> Case:
    """rows: (query tokens, tokens before them); heads: of queries, of keys, their size. What no row owns is NaN."""
    dtype, stored = (DTYPES[name] for name in dtypes)
    num_heads, num_kv_heads, head_dim = heads
    generator = torch.Generator().manual_seed(sum(q_len + 7 * before for q_len, before in rows) + head_dim)
    seq_lens = np.array([q_len + before for q_len, before in rows], np.int32)
    cu_q = np.concatenate(([0], np.cumsum([q_len for q_len, _ in rows]))).astype(np.int32)
    widths = -(-seq_lens // block_size)
    num_blocks = int(widths.sum()) + 3
    free = torch.randperm(num_blocks, generator=generator).tolist()
    host_tables = np.zeros((len(rows), int(widths.max()) + 2), np.int32)
    tables = np.full_like(host_tables, poison(torch.int32))
    caches = [torch.full((num_blocks, num_kv_heads, block_size, head_dim), torch.nan) for _ in range(2)]
    for row, (width, seq_len) in enumerate(zip(widths.tolist(), seq_lens.tolist(), strict=True)):
        host_tables[row, :width] = tables[row, :width] = [free.pop() for _ in range(width)]
        if window:
            tables[row, : max(0, rows[row][1] - window + 1) // block_size] = poison(torch.int32)
        positions = torch.arange(seq_len)
        blocks = torch.from_numpy(host_tables[row])[positions // block_size].long()
        for cache in caches:
            cache[blocks, :, positions % block_size] = torch.randn(seq_len, num_kv_heads, head_dim, generator=generator)
    keys, values = (cache.to(stored) for cache in caches)
    q = torch.randn(int(cu_q[-1]), num_heads, head_dim, generator=generator).to(dtype)

    def batch(device_tables: torch.Tensor, *columns: torch.Tensor) -> RaggedBatch:
        return RaggedBatch(device_tables, *columns, host_tables, cu_q, seq_lens, block_size)

    columns = [torch.from_numpy(column) for column in (cu_q, seq_lens)]
    exact = (q.float(), keys.float(), values.float(), batch(torch.from_numpy(host_tables), *columns))
    key_scale, value_scale = scales or (1.0, 1.0)
    expected = cpu.paged_attention(*exact, SCALE * key_scale, window) * value_scale
    on_device = batch(guards.put(torch.from_numpy(tables)), *(guards.put(column) for column in columns))
    return Case(guards.put(q), guards.put(keys), guards.put(values), on_device, expected)


MIXED = [(1, 30), (1, 0), (1, 200), (7, 0), (33, 40), (2, 15)]
DECODE = [(1, 69), (1, 0), (1, 15), (1, 16)]


@pytest.mark.parametrize("window", [None, 19])
@pytest.mark.parametrize(
    ("rows", "heads", "block_size", "dtypes"),
    [
        (MIXED, (4, 2, 128), 16, ("bfloat16", "bfloat16")),
        (MIXED, (7, 1, 64), 16, ("float16", "float16")),
        (MIXED, (3, 3, 80), 4, ("bfloat16", "bfloat16")),
        (MIXED, (4, 2, 64), 16, ("bfloat16", "fp8")),
        (DECODE, (8, 2, 128), 16, ("bfloat16", "bfloat16")),
        (DECODE, (6, 2, 24), 1, ("float32", "float32")),
        (DECODE, (20, 1, 64), 8, ("float16", "fp8")),
        ([(5, 3), (70, 0)], (2, 1, 32), 16, ("float32", "float32")),
        ([(3, 100)], (2, 2, 256), 16, ("bfloat16", "bfloat16")),
    ],
)
def test_any_ragged_batch_equals_the_specification(rows, heads, block_size, dtypes, window, backend, guards) -> None:
    case = make_case(rows, heads, block_size, dtypes, guards, window)
    out = backend.paged_attention(case.q, case.keys, case.values, case.batch, SCALE, window)
    assert relative_error(out, case.expected) < TOLERANCES[case.q.dtype]


@pytest.mark.parametrize("window", [None, 300])
def test_long_rows_are_split_and_merged(window, backend, guards) -> None:
    rows = [(1, 700), (1, 3), (1, 0), (1, 256), (9, 500)]
    case = make_case(rows, (4, 2, 64), 16, ("bfloat16", "bfloat16"), guards, window)
    out = backend.paged_attention(case.q, case.keys, case.values, case.batch, SCALE, window)
    assert relative_error(out, case.expected) < TOLERANCES[torch.bfloat16]


def test_a_row_is_split_only_as_far_as_its_keys_demand_where_the_device_is_full(
    backend, guards, monkeypatch, mode
) -> None:
    """A graph's launch has splits for the longest row there could be; most rows are none."""
    if mode == "ref":
        pytest.skip("the specification has no splits")
    from quire.kernels.triton import attention

    merged: list[tuple[torch.Tensor, int, int]] = []
    merge = attention._merge

    def noted(tensors, value_scale, num_partials, splits, *others):
        merged.append((tensors[0], num_partials, splits))
        return merge(tensors, value_scale, num_partials, splits, *others)

    monkeypatch.setattr(attention, "_merge", noted)
    monkeypatch.setattr(attention, "num_processors", lambda device: 1)
    monkeypatch.setattr(attention, "_KEYS_AT_MOST", 512)
    attention._variant.cache_clear()
    rows = [(1, 1500), (1, 3), (1, 250)]
    case = make_case(rows, (4, 2, 64), 16, ("bfloat16", "bfloat16"), guards)
    out = backend.paged_attention(case.q, case.keys, case.values, case.batch, SCALE, None)
    attention._variant.cache_clear()
    assert relative_error(out, case.expected) < TOLERANCES[torch.bfloat16]
    workspace, num_partials, splits = merged[0]
    weights = workspace[num_partials * 65 :].view(len(rows), 4, splits)
    assert splits == 4 and (weights > 0).sum(2).tolist() == [[3] * 4, [0] * 4, [0] * 4], "the others were written whole"


def test_the_last_split_may_merge_them_all(backend, guards, monkeypatch, mode) -> None:
    if mode == "ref":
        pytest.skip("the specification has no splits")
    from quire.kernels.triton import attention

    monkeypatch.setattr(attention, "_IS_MERGING", True)
    rows = [(1, 700), (1, 3), (1, 0), (1, 256), (9, 500)]
    case = make_case(rows, (4, 2, 64), 16, ("bfloat16", "bfloat16"), guards)
    for _ in range(2):
        out = backend.paged_attention(case.q, case.keys, case.values, case.batch, SCALE, None)
        assert relative_error(out, case.expected) < TOLERANCES[torch.bfloat16]
    assert not attention._arrivals(case.q.device).any()


def test_scales_of_an_fp8_cache_are_applied(backend, guards) -> None:
    case = make_case([(1, 300), (4, 20)], (4, 2, 32), 16, ("float32", "fp8"), guards, scales=(0.5, 3.0))
    out = backend.paged_attention(case.q, case.keys, case.values, case.batch, SCALE, None, (0.5, 3.0))
    assert relative_error(out, case.expected) < TOLERANCES[torch.float32]


def test_queries_may_lie_in_wider_rows(backend, guards) -> None:
    case = make_case([(1, 20), (3, 9)], (4, 2, 32), 16, ("float32", "float32"), guards)
    wide = guards.empty(case.q.shape[0], 8, 32)
    wide[:, :4] = case.q
    out = backend.paged_attention(wide[:, :4], case.keys, case.values, case.batch, SCALE, None)
    assert relative_error(out, case.expected) < TOLERANCES[torch.float32]


@pytest.mark.parametrize("is_one_launch", [False, True])
def test_rows_that_pad_a_batch_read_nothing_and_give_zeros(is_one_launch, backend, guards, mode) -> None:
    if mode == "ref":
        pytest.skip("the specification is given no padding")
    rows = [(1, 40), (1, 300), (1, 2)]
    case = make_case(rows, (4, 2, 64), 16, ("bfloat16", "bfloat16"), guards)
    seq_lens = guards.put(torch.tensor([41, 301, 3, 0, 0], dtype=torch.int32))
    cu_q = guards.put(torch.arange(6, dtype=torch.int32))
    tables = guards.empty(5, case.batch.block_tables.shape[1], dtype=torch.int32)
    tables[:3] = case.batch.block_tables
    batch = RaggedBatch(tables, cu_q, seq_lens, np.zeros((5, 1)), np.arange(6), np.zeros(5), 16)
    if is_one_launch:
        batch.num_decode_rows = 0
    q = guards.empty(5, 4, 64, dtype=torch.bfloat16)
    q[:3] = case.q
    out = backend.paged_attention(q, case.keys, case.values, batch, SCALE, None)
    assert relative_error(out[:3], case.expected) < TOLERANCES[torch.bfloat16]
    assert (out[3:] == 0).all()
