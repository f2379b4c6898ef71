"""Tests of packed linear layers: right for any number of rows, computed for few different ones."""

from __future__ import annotations

import pytest
import torch

from quire.kernels.cpu.linear import linear, pack_linear, padded_rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_rows", [1, 16, 17, 63, 65, 130, 257, 700])
def test_a_packed_product_is_the_plain_one(dtype, num_rows):
    torch.manual_seed(num_rows)
    weight, bias = torch.randn(48, 64, dtype=dtype), torch.randn(48, dtype=dtype)
    x = torch.randn(num_rows, 64, dtype=dtype)
    out = linear(x, pack_linear(weight), bias)
    assert out.shape == (num_rows, 48)
    expected = torch.nn.functional.linear(x.double(), weight.double(), bias.double())
    assert (out.double() - expected).norm() <= (1e-6 if dtype == torch.float32 else 5e-3) * expected.norm()


def test_few_row_counts_are_ever_computed_so_that_compiled_code_does_not_pile_up():
    counts = {padded_rows(num_rows) for num_rows in range(1, 2049)}
    assert len(counts) < 50
    assert all(num_rows <= padded_rows(num_rows) <= num_rows * 1.5 for num_rows in range(1, 2049))
