"""Native paged attention of decode rows that share blocks: they are gone through together, and it is attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quire.kernels.cpu.native import attention

from .attention_case import Case

pytestmark = pytest.mark.usefixtures("level")
DTYPES = [torch.float32, torch.bfloat16]


def num_groups(case: Case, window: int | None = None) -> int:
    """Of the plan of a step."""
    batch = case.batch()
    attention.paged_attention(case.q, *case.caches, batch, case.scale, window)
    (plan,) = batch.derived.values()
    return int(plan.fields[14])  # num_groups in attention.h


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads", [(2, 2), (4, 2), (8, 1)])
@pytest.mark.parametrize(
    ("num_rows", "parts", "block_size"), [(4, 1, 16), (5, 2, 7), (7, 4, 16), (13, 2, 16), (20, 1, 7)]
)
def test_parts_that_rows_share_are_gone_through_together(dtype, heads, num_rows, parts, block_size):
    shared_blocks = -(-parts * 256 // block_size)
    rows = [(1, shared_blocks * block_size - 1 + 37 * row % 300) for row in range(num_rows)]
    case = Case(rows, dtype=dtype, heads=heads, head_dim=32, block_size=block_size, shared_blocks=shared_blocks)
    case.check()
    assert num_groups(case) == (parts * -(-num_rows * heads[0] // heads[1] // 144) if dtype == torch.bfloat16 else 0)


def test_rows_in_two_groups_and_rows_in_none_are_attention():
    rows = [(1, 700 + 13 * row) for row in range(14)] + [(1, 90), (30, 600)]
    case = Case(rows, dtype=torch.bfloat16, shared_blocks=40, shared_by=[(0, 2, 4, 6, 8), (1, 3, 5, 7), (9, 10, 11)])
    case.check()
    assert num_groups(case) == 4
    # From within the second part on the first group is another: four rows of five still share it.
    case.tables[8, 20] = case.tables[12, 20]
    case.check()
    assert num_groups(case) == 4
    case.tables[6, 20] = case.tables[13, 20]
    case.check()
    assert num_groups(case) == 3


@pytest.mark.parametrize(("window", "groups"), [(1, 0), (300, 0), (600, 1), (10**6, 2)])
def test_shared_parts_within_a_window(window, groups):
    case = Case([(1, 610 + row) for row in range(6)], dtype=torch.bfloat16, shared_blocks=36, head_dim=64)
    case.check(window)
    assert num_groups(case, window) == groups


def test_more_rows_share_a_part_than_a_group_holds():
    case = Case([(1, 256)] * 40 + [(1, 255)], dtype=torch.bfloat16, heads=(8, 1), shared_blocks=16)
    case.check()
    assert num_groups(case) == 3


def test_more_query_heads_than_a_group_holds():
    case = Case([(1, 260)] * 4, dtype=torch.bfloat16, heads=(150, 1), shared_blocks=16)
    case.check()
    assert num_groups(case) == 4


@pytest.mark.parametrize("cache", [0, 1])
def test_a_nan_in_a_shared_part_comes_out_of_all_rows_that_share_it(cache):
    case = Case([(1, 300)] * 6, dtype=torch.bfloat16, shared_blocks=16, shared_by=[(0, 1, 2, 4, 5)])
    blocks, offsets = case.places(0, np.array([100]))
    case.caches[cache][blocks, :, offsets] = torch.nan
    out = case.native()
    assert num_groups(case) == 1
    assert out[3].isfinite().all()
    assert out[[0, 1, 2, 4, 5]].isnan().all()
