"""Native paged attention against attention in float64, on every instruction set there is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quire.kernels.cpu import attention as torch_attention
from quire.kernels.cpu.native import attention

from .attention_case import Case, ragged

pytestmark = pytest.mark.usefixtures("level")
DTYPES = [torch.float32, torch.bfloat16]
GUARD = 64

MIXED = [(1, 0), (1, 15), (1, 300), (1, 16), (1, 700), (2, 0), (4, 130), (37, 0), (70, 90), (3, 515)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("block_size", "window"), [(1, None), (7, 33), (16, None), (16, 1), (16, 300), (32, 33)])
def test_decode_and_prefill_rows_together_are_attention(dtype, block_size, window):
    Case(MIXED, dtype=dtype, block_size=block_size).check(window)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_dim", [16, 32, 48, 64, 80, 112, 128, 256, 512])
def test_any_head_size(dtype, head_dim):
    Case([(1, 60), (1, 300), (19, 50)], dtype=dtype, head_dim=head_dim).check()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(1, 1), (4, 4), (6, 3), (3, 1), (8, 2), (5, 1), (12, 2), (7, 1), (8, 1), (19, 1)])
def test_any_number_of_heads(dtype, heads):
    Case([(1, 60), (1, 300), (19, 50), (5, 0)], dtype=dtype, heads=heads, head_dim=32).check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_with_blocks_in_common(dtype):
    Case([(1, 300), (1, 320), (1, 333), (9, 310), (1, 299)], dtype=dtype, shared_blocks=18, head_dim=64).check()


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_query_heads_than_a_tile_has_rows(dtype):
    Case([(1, 3), (3, 2)], dtype=dtype, heads=(150, 1)).check()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(st.one_of(st.just(1), st.integers(1, 90)), st.one_of(st.integers(0, 40), st.integers(0, 600))),
        min_size=1,
        max_size=7,
    ),
    dtype=st.sampled_from(DTYPES),
    block_size=st.sampled_from([1, 3, 16, 64]),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    head_dim=st.sampled_from([16, 32, 80]),
    window=st.sampled_from([None, 1, 5, 64, 257]),
    seed=st.integers(0, 1000),
)
def test_any_ragged_batch_is_attention(rows, dtype, block_size, heads, head_dim, window, seed):
    Case(rows, dtype=dtype, block_size=block_size, heads=heads, head_dim=head_dim, seed=seed).check(window)


@pytest.mark.parametrize(("dtype", "shared_blocks"), [(torch.float32, 0), (torch.float32, 18), (torch.bfloat16, 0)])
def test_a_row_does_not_depend_on_the_others(dtype, shared_blocks):
    rows = [*[(1, 300 + row) for row in range(5)], (9, 320)] if shared_blocks else MIXED
    case = Case(rows, dtype=dtype, head_dim=64, shared_blocks=shared_blocks)
    together = case.native()
    for row in range(len(case.rows)):
        start, end = case.cu_q[row : row + 2].tolist()
        tables, lens, cu_q = case.tables[row : row + 1], case.lens[row : row + 1], np.array([0, end - start], np.int32)
        batch = ragged(tables, cu_q, lens, case.block_size)
        alone = attention.paged_attention(case.q[start:end], *case.caches, batch, case.scale, None)
        assert torch.equal(alone, together[start:end])


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_written_outside_the_output(dtype, monkeypatch):
    case = Case(MIXED, dtype=dtype, head_dim=48)
    made = []

    def guarded(shape, dtype=torch.float32):
        size = int(np.prod(shape))
        made.append(torch.full((size + 2 * GUARD,), torch.nan, dtype=dtype))
        return made[-1][GUARD : GUARD + size].view(shape)

    with monkeypatch.context() as patch:
        patch.setattr(attention.torch, "empty", guarded)
        out = case.native()
    for memory in made:
        assert memory[:GUARD].isnan().all()
        assert memory[-GUARD:].isnan().all()
    assert not out.isnan().any()


@pytest.mark.parametrize("window", [None, 50])
def test_long_rows_are_torchs_where_the_cpu_has_matrix_registers(monkeypatch, window):
    monkeypatch.setattr(attention, "torch_takes_long_rows", lambda: True)
    by_torch = []
    attend = torch_attention.attend_long_rows
    monkeypatch.setattr(
        torch_attention, "attend_long_rows", lambda *given: (by_torch.append(given[4]), attend(*given))[0]
    )
    case = Case([(1, 300), (1, 7), (5, 40), (64, 0), (100, 70), (63, 9)], dtype=torch.bfloat16, head_dim=32)
    case.check(window)
    assert by_torch == [(3, 4)]
    single = Case([(1, 300)], dtype=torch.bfloat16, head_dim=32)
    single.check(window)
    assert len(by_torch) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_queries_may_lie_apart(dtype):
    case = Case([(1, 60), (9, 20)], dtype=dtype)
    close = case.native()
    case.q = torch.cat((case.q, torch.full_like(case.q, torch.nan)), dim=1)[:, :4]
    assert not case.q.is_contiguous()
    assert torch.equal(case.native(), close)


@pytest.mark.parametrize("dtype", DTYPES)
def test_layers_of_a_step_share_a_plan(dtype):
    case = Case(MIXED, dtype=dtype)
    batch = case.batch()
    for _ in range(3):
        out = attention.paged_attention(case.q, *case.caches, batch, case.scale, None)
        assert torch.equal(out, case.native())
    assert len(batch.derived) == 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_great_scores_neither_overflow_nor_vanish(dtype):
    case = Case([(1, 300), (20, 80)], dtype=dtype)
    case.q *= 200
    out = case.native()
    assert out.isfinite().all()
    if dtype == torch.float32:
        torch.testing.assert_close(out.double(), case.expected(), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cache", [0, 1])
def test_a_nan_of_a_rows_own_comes_out(dtype, cache):
    case = Case([(1, 300), (1, 20), (20, 80)], dtype=dtype)
    for row in (0, 2):
        blocks, offsets = case.places(row, np.array([5]))
        case.caches[cache][blocks, :, offsets] = torch.nan
    out = case.native()
    assert out[0].isnan().all()
    assert out[1].isfinite().all()
    assert out[2:].isnan().all()


def test_rows_without_queries_are_passed_over():
    case = Case([(1, 20), (0, 30), (5, 4), (0, 1)])
    case.check()


@pytest.mark.parametrize(
    ("dtype", "head_dim"), [(torch.float32, 8), (torch.float64, 16), (torch.float16, 16), (torch.float32, 528)]
)
def test_what_it_does_not_take_is_torchs(dtype, head_dim):
    case = Case([(1, 20), (5, 4)], dtype=dtype, head_dim=head_dim)
    expected = torch_attention.paged_attention(case.q, *case.caches, case.batch(), case.scale, None)
    assert torch.equal(case.native(), expected)


@pytest.mark.parametrize("wrong", [-1, 1 << 20])
def test_a_block_that_is_none_is_refused(wrong):
    case = Case([(1, 20)])
    case.tables[0, 1] = wrong
    with pytest.raises(IndexError, match="names a block that is none"):
        case.native()


def test_the_check_finds_a_difference(monkeypatch):
    attention.check()
    monkeypatch.setattr(torch_attention, "paged_attention", lambda q, *_: torch.zeros_like(q))
    with pytest.raises(AssertionError, match="paged_attention in"):
        attention.check()
