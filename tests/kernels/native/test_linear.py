"""Native linear layers against float64, on every instruction set there is, of odd shapes and rows of all kinds."""

from __future__ import annotations

import pytest
import torch

from quire.kernels.cpu.native.linear_bfloat16 import PanelWeight, check

pytestmark = pytest.mark.usefixtures("level")

SHAPES = [(64, 64), (1, 1), (5, 2), (33, 31), (70, 97), (96, 2050), (40, 4097)]
ROWS = [*range(1, 27), 47, 64, 70, 191, 193, 400]
NAN = float("nan")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    exact = x.double() @ weight.double().T
    return exact if bias is None else exact + bias.double()


@pytest.mark.parametrize(("out_size", "in_size"), SHAPES)
def test_a_product_is_the_exact_one_but_for_float32_sums(out_size, in_size):
    weight, bias = random(out_size, in_size, seed=1), random(out_size, seed=2)
    packed = PanelWeight(weight)
    for num_rows in ROWS if in_size < 1000 else (1, 3, 12, 13, 193):
        x = random(num_rows, in_size, seed=100 + num_rows)
        for of_bias in (None, bias):
            out = packed.product(x, of_bias, torch.float32)
            assert out.shape == (num_rows, out_size)
            expected = product(x, weight, of_bias)
            bound = x.double().abs() @ weight.double().abs().T
            assert ((out - expected).abs() <= 1e-5 * (bound + bias.abs())).all()


@pytest.mark.parametrize("num_rows", [1, 13, 200])
def test_bfloat16_is_the_float32_result_rounded_once(num_rows):
    weight, bias, x = random(70, 96, seed=1), random(70, seed=2), random(num_rows, 96)
    packed = PanelWeight(weight)
    assert packed.product(x, bias).dtype == torch.bfloat16
    assert torch.equal(packed.product(x, bias), packed.product(x, bias, torch.float32).bfloat16())


@pytest.mark.parametrize("in_size", [97, 4097])
def test_a_row_does_not_depend_on_the_rows_beside_it(in_size):
    x = random(400, in_size)
    packed = PanelWeight(random(70, in_size, seed=1))
    out = packed.product(x, None, torch.float32)
    for start, end in ((0, 1), (17, 18), (3, 20), (100, 399)):
        assert torch.equal(packed.product(x[start:end], None, torch.float32), out[start:end])


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_threads_change_nothing(num_threads):
    before = torch.get_num_threads()
    x, packed = random(50, 96), PanelWeight(random(300, 96, seed=1))
    expected = packed.product(x)
    try:
        torch.set_num_threads(num_threads)
        assert torch.equal(packed.product(x), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("in_size", [31, 32, 4097])
@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_nan_and_infinity_stay_in_their_row(in_size, bad):
    x = random(14, in_size)
    packed = PanelWeight(random(40, in_size, seed=1))
    expected = packed.product(x)
    x[5, 0] = x[5, -1] = bad
    out = packed.product(x)
    assert not out[5].isfinite().any()
    others = [row for row in range(14) if row != 5]
    assert torch.equal(out[others], expected[others])


def test_what_lies_beside_a_row_is_not_read_into_it():
    whole = torch.full((9, 50), NAN, dtype=torch.bfloat16)
    x = whole[:, 3:34]
    x.copy_(random(9, 31))
    packed = PanelWeight(random(33, 31, seed=1))
    assert torch.equal(packed.product(x), packed.product(x.contiguous()))
    assert packed.product(x).isfinite().all()


def test_columns_of_a_transposed_input_are_taken_too():
    packed, x = PanelWeight(random(33, 31, seed=1)), random(31, 9)
    assert torch.equal(packed.product(x.T), packed.product(x.T.contiguous()))


def test_no_rows_give_no_rows():
    assert PanelWeight(random(33, 31)).product(random(0, 31)).shape == (0, 33)


@pytest.mark.parametrize("x", [torch.zeros(2, 31), torch.zeros(2, 30, dtype=torch.bfloat16)])
def test_another_type_or_width_is_refused(x):
    with pytest.raises(ValueError, match=r"takes torch.bfloat16 \[\*, 31\]"):
        PanelWeight(random(33, 31)).product(x)


@pytest.mark.parametrize(("out_size", "in_size"), SHAPES)
def test_rows_come_out_of_the_panels_as_they_went_in(out_size, in_size):
    weight = random(out_size, in_size)
    packed = PanelWeight(weight)
    for count in (0, 1, 8, 40):
        ids = torch.randint(out_size, (count,), dtype=torch.int32)
        assert torch.equal(packed.rows(ids), weight[ids.long()])


@pytest.mark.parametrize("bad", [-1, 33])
def test_a_row_that_is_not_there_is_an_error(bad):
    with pytest.raises(IndexError):
        PanelWeight(random(33, 31)).rows(torch.tensor([0, bad]))


def test_the_self_test_passes():
    check()
