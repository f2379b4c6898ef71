"""Paged attention and the cache write against attention written out token by token."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire import kernels
from quire.kernels import RaggedBatch, dispatch
from quire.kernels.cpu import attention as torch_attention
from quire.kernels.cpu.rotary import rotate


class Case(NamedTuple):
    q: torch.Tensor
    keys: list[torch.Tensor]
    """Of each row, [seq_len, Hkv, D]."""
    values: list[torch.Tensor]
    caches: tuple[torch.Tensor, torch.Tensor]
    batch: RaggedBatch


def ragged(tables: np.ndarray, q_lens: list[int], seq_lens: list[int], block_size: int) -> RaggedBatch:
    cu_q = np.concatenate(([0], np.cumsum(q_lens))).astype(np.int32)
    lens = np.array(seq_lens, np.int32)
    on_device = (torch.from_numpy(tables), torch.from_numpy(cu_q), torch.from_numpy(lens))
    return RaggedBatch(*on_device, tables, cu_q, lens, block_size)


def make_case(rows: list[tuple[int, int]], block_size: int, heads: int, kv_heads: int, seed: int) -> Case:
    """rows: (query tokens, tokens before them). All of the cache that no row owns is NaN."""
    rows = sorted(rows, key=lambda row: row[0] != 1)
    generator = torch.Generator().manual_seed(seed)
    head_dim = 8
    seq_lens = [q_len + before for q_len, before in rows]
    widths = [-(-length // block_size) for length in seq_lens]
    num_blocks = sum(widths) + 3
    free = torch.randperm(num_blocks, generator=generator).tolist()
    tables = np.zeros((len(rows), max(widths)), np.int32)
    caches = tuple(torch.full((num_blocks, kv_heads, block_size, head_dim), torch.nan) for _ in range(2))
    keys, values = [], []
    for row, length in enumerate(seq_lens):
        tables[row, : widths[row]] = [free.pop() for _ in range(widths[row])]
        for cache, kept in zip(caches, (keys, values), strict=True):
            kept.append(torch.randn(length, kv_heads, head_dim, generator=generator))
            for position in range(length):
                cache[tables[row, position // block_size], :, position % block_size] = kept[-1][position]
    q = torch.randn(sum(q_len for q_len, _ in rows), heads, head_dim, generator=generator)
    return Case(q, keys, values, caches, ragged(tables, [q_len for q_len, _ in rows], seq_lens, block_size))


def written_out(case: Case, scale: float, window: int | None) -> torch.Tensor:
    heads = case.q.shape[1]
    out = torch.empty_like(case.q)
    for row, (keys, values) in enumerate(zip(case.keys, case.values, strict=True)):
        start, end = case.batch.host_cu_q[row : row + 2].tolist()
        for token in range(start, end):
            last = len(keys) - (end - token)
            first = max(0, last - window + 1) if window else 0
            for head in range(heads):
                kv_head = head * keys.shape[1] // heads
                seen = slice(first, last + 1)
                weights = torch.softmax(keys[seen, kv_head] @ case.q[token, head] * scale, dim=0)
                out[token, head] = weights @ values[seen, kv_head]
    return out


row_lists = st.lists(st.tuples(st.one_of(st.just(1), st.integers(1, 9)), st.integers(0, 40)), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(
    rows=row_lists,
    block_size=st.sampled_from([1, 4, 16]),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    window=st.sampled_from([None, 1, 5, 17]),
    seed=st.integers(0, 1000),
)
def test_any_ragged_batch_is_attention_written_out(rows, block_size, heads, window, seed):
    case = make_case(rows, block_size, *heads, seed)
    out = kernels.paged_attention(case.q, *case.caches, case.batch, 0.3, window)
    torch.testing.assert_close(out, written_out(case, 0.3, window), atol=2e-6, rtol=1e-5)


def test_rows_of_very_different_lengths_are_not_padded_to_the_longest(monkeypatch):
    case = make_case([(1, 3)] * 6 + [(1, 700), (1, 640), (1, 90)], 4, 4, 2, seed=1)
    gathered = []
    decode = torch_attention._decode
    monkeypatch.setattr(
        torch_attention, "_decode", lambda *args: gathered.append(args[3].gather.numel()) or decode(*args)
    )
    out = kernels.paged_attention(case.q, *case.caches, case.batch, 0.3, None)
    torch.testing.assert_close(out, written_out(case, 0.3, None), atol=2e-6, rtol=1e-5)
    needed = sum(-(-len(keys) // 4) for keys in case.keys) * 2
    assert sum(gathered) < 2 * needed


def test_a_long_chunk_is_cut_along_its_queries(monkeypatch):
    monkeypatch.setattr(torch_attention, "_MASK_TOKENS", 64)
    case = make_case([(23, 9), (5, 30)], 4, 4, 2, seed=2)
    for window in (None, 7):
        out = kernels.paged_attention(case.q, *case.caches, case.batch, 0.3, window)
        torch.testing.assert_close(out, written_out(case, 0.3, window), atol=2e-6, rtol=1e-5)
        case.batch.derived.clear()


def test_half_precision_stays_close():
    case = make_case([(1, 50), (1, 3), (9, 20)], 16, 4, 2, seed=3)
    caches = tuple(cache.bfloat16() for cache in case.caches)
    out = kernels.paged_attention(case.q.bfloat16(), *caches, case.batch, 0.3, None)
    expected = written_out(case, 0.3, None)
    assert (out.float() - expected).norm() / expected.norm() < 1e-2


@pytest.mark.parametrize("has_norm", [False, True])
def test_rope_and_cache_norms_turns_and_writes(has_norm: bool):
    torch.manual_seed(0)
    tokens, heads, kv_heads, dim, block_size = 7, 4, 2, 8, 4
    qkv = torch.randn(tokens, (heads + 2 * kv_heads) * dim)
    norms = (torch.rand(dim) + 0.5, torch.rand(dim) + 0.5) if has_norm else (None, None)
    angles = torch.rand(32, dim // 2) * 6
    table = torch.cat((angles.cos(), angles.sin()), dim=-1)
    positions = torch.tensor([3, 0, 9, 31, 5, 5, 1], dtype=torch.int32)
    slots = torch.tensor([0, 1, 6, 7, 19, 12, 3], dtype=torch.int32)
    caches = tuple(torch.full((5, kv_heads, block_size, dim), torch.nan) for _ in range(2))
    given = qkv.clone().view(tokens, -1, dim)
    q = kernels.rope_and_cache(qkv, *norms, 1e-6, table, positions, slots, *caches)

    def expected(part: torch.Tensor, norm: torch.Tensor | None, token: int) -> torch.Tensor:
        if norm is not None:
            part = part / (part.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * norm
        cos, sin = angles[positions[token]].cos(), angles[positions[token]].sin()
        first, second = part[..., : dim // 2], part[..., dim // 2 :]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

    for token in range(tokens):
        block, offset = divmod(int(slots[token]), block_size)
        torch.testing.assert_close(q[token], expected(given[token, :heads], norms[0], token))
        key = expected(given[token, heads : heads + kv_heads], norms[1], token)
        torch.testing.assert_close(caches[0][block, :, offset], key)
        torch.testing.assert_close(caches[1][block, :, offset], given[token, heads + kv_heads :])
    written = torch.zeros(5 * block_size, dtype=torch.bool).index_fill(0, slots.long(), True).view(5, block_size)
    for cache in caches:
        assert torch.equal(~cache.isnan().any(-1).any(1), written)


def test_a_rotation_keeps_lengths():
    x = torch.randn(3, 2, 8)
    angles = torch.rand(10, 4)
    turned = rotate(x, torch.cat((angles.cos(), angles.sin()), dim=-1), torch.tensor([0, 4, 9]))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


@settings(max_examples=40, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), min_size=1, max_size=6))
def test_block_copies_are_done_one_after_the_other(pairs):
    caches = torch.arange(2 * 8 * 3, dtype=torch.float32).view(2, 8, 3)
    expected = caches.clone()
    for source, target in pairs:
        expected[:, target] = expected[:, source]
    kernels.copy_blocks(caches, pairs)
    assert torch.equal(caches, expected)


def test_a_graph_may_hold_what_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, half, fp8 = torch.device("cuda"), torch.bfloat16, torch.float8_e4m3fn
    monkeypatch.setitem(dispatch._backends, "cuda", kernels.cpu)
    assert not kernels.can_be_captured(cuda, 128, half, half)
    assert kernels.can_be_captured(torch.device("cpu"), 512, half, half)
    triton = pytest.importorskip("quire.kernels.triton")
    monkeypatch.setitem(dispatch._backends, "cuda", triton)
    assert kernels.can_be_captured(cuda, 128, half, half) and kernels.can_be_captured(cuda, 256, half, fp8)
    assert not kernels.can_be_captured(cuda, 512, half, half)
