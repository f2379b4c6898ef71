"""Native int8 linear layers against their specification in torch, and that against whole numbers in float64."""

from __future__ import annotations

import pytest
import torch

from quire.kernels.cpu.linear_int8 import Int8Weight, quantize_rows
from quire.kernels.cpu.native.linear_int8 import Int8PanelWeight, check

pytestmark = pytest.mark.usefixtures("level")

SHAPES = [(64, 64), (1, 1), (5, 2), (33, 31), (70, 97), (40, 4099)]
ROWS = [1, 2, 3, 5, 8, 11, 12, 13, 25, 70, 193]
NAN = float("nan")


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("out_size", "in_size"), SHAPES)
def test_a_product_is_that_of_the_specification(out_size, in_size, dtype):
    weight, bias = random(out_size, in_size, seed=1, dtype=dtype), random(out_size, seed=2, dtype=dtype)
    native, plain = Int8PanelWeight(weight), Int8Weight(weight)
    for num_rows in ROWS:
        x = random(num_rows, in_size, seed=100 + num_rows, dtype=dtype)
        for of_bias in (None, bias):
            out = native.product(x, of_bias, torch.float32)
            torch.testing.assert_close(out, plain.product(x, of_bias, torch.float32), rtol=1e-6, atol=1e-5)
        assert native.product(x, bias).dtype == dtype
        assert torch.equal(native.product(x, bias), native.product(x, bias, torch.float32).to(dtype))


def test_the_specification_sums_whole_numbers_exactly():
    weight, x = random(70, 4099, seed=1), random(9, 4099)
    (of_x, x_scales), (of_weight, scales) = quantize_rows(x), quantize_rows(weight)
    exact = of_x.double() @ of_weight.double().T * x_scales[:, None].double() * scales.double()
    torch.testing.assert_close(Int8Weight(weight).product(x).double(), exact, rtol=1e-6, atol=0)


def test_extremes_do_not_overflow():
    """127 x 255 in every place of the widest weight there may be."""
    weight, x = torch.ones(2, 65536), torch.ones(2, 65536)
    x[1] = -1
    expected = torch.tensor([[65536.0, 65536.0], [-65536.0, -65536.0]])
    torch.testing.assert_close(Int8PanelWeight(weight).product(x), expected)
    torch.testing.assert_close(Int8Weight(weight).product(x), expected)


@pytest.mark.parametrize("kind", [Int8PanelWeight, Int8Weight])
@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_a_row_that_is_not_finite_is_nan_and_alone_so(kind, bad):
    packed, x = kind(random(40, 35, seed=1)), random(14, 35)
    expected = packed.product(x)
    x[5, 34] = bad
    out = packed.product(x)
    assert out[5].isnan().all()
    others = [row for row in range(14) if row != 5]
    assert torch.equal(out[others], expected[others])


@pytest.mark.parametrize("kind", [Int8PanelWeight, Int8Weight])
@pytest.mark.parametrize("small", [0.0, 1e-42, 1e-31])
def test_rows_of_next_to_nothing_give_the_bias(kind, small):
    weight, bias = random(40, 35, seed=1), random(40, seed=2)
    weight[3] = small
    out = kind(weight).product(torch.full((2, 35), small), bias)
    assert torch.equal(out, bias.expand(2, 40))
    assert kind(weight).product(random(2, 35))[:, 3].tolist() == [0, 0]


def test_a_row_does_not_depend_on_the_rows_beside_it():
    x, packed = random(400, 97), Int8PanelWeight(random(70, 97, seed=1))
    out = packed.product(x)
    for start, end in ((0, 1), (17, 18), (3, 20), (100, 399)):
        assert torch.equal(packed.product(x[start:end]), out[start:end])


def test_what_lies_beside_a_row_is_not_read_into_it():
    whole = torch.full((9, 50), NAN)
    x = whole[:, 3:34]
    x.copy_(random(9, 31))
    packed = Int8PanelWeight(random(33, 31, seed=1))
    assert torch.equal(packed.product(x), packed.product(x.contiguous()))
    assert packed.product(x[:0]).shape == (0, 33)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_come_out_of_the_panels_as_the_specification_has_them(dtype):
    weight = random(70, 97, dtype=dtype)
    ids = torch.tensor([69, 0, 31, 31], dtype=torch.int32)
    rows = Int8PanelWeight(weight).rows(ids)
    assert torch.equal(rows, Int8Weight(weight).rows(ids))
    assert (rows - weight[ids.long()]).norm() < 0.02 * weight[ids.long()].norm()
    with pytest.raises(IndexError):
        Int8PanelWeight(weight).rows(torch.tensor([70]))


def test_what_it_does_not_take_is_refused():
    with pytest.raises(ValueError, match="no int8 of torch.float64"):
        Int8PanelWeight(torch.zeros(3, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="65536 inputs"):
        Int8PanelWeight(torch.zeros(1, 65537))
    with pytest.raises(ValueError, match=r"takes \[\*, 31\]"):
        Int8PanelWeight(random(33, 31)).product(random(2, 30))


def test_the_self_test_passes():
    check()
