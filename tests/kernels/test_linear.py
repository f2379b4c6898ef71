"""Tests of packed linear layers: right for any number of rows, computed for few different ones."""

from __future__ import annotations

import pytest
import torch

from quire.kernels.cpu import linear_choice
from quire.kernels.cpu.linear import Pack, linear, pack_linear, padded_rows
from quire.kernels.cpu.linear_choice import choose


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


class Clock:
    """A time that passes only as it is told to."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


clock = Clock()


class Timed:
    """A weight whose product takes a while."""

    nbytes, has_rows = 0, False

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def product(self, x, bias=None, out_dtype=None):
        clock.now += self._seconds
        return x

    def rows(self, ids):
        raise NotImplementedError


def kinds(**seconds: float) -> dict[str, Pack]:
    return {name: lambda _, each=each: Timed(each) for name, each in seconds.items()}


@pytest.fixture(autouse=True)
def own_clock(monkeypatch):
    monkeypatch.setattr(linear_choice, "time", clock)


def choice(kinds, wanted="auto"):
    return choose(kinds, [(8, 8)], torch.bfloat16, wanted)


def test_the_fastest_is_chosen_where_it_is_clearly_faster():
    chosen = choice(kinds(native=0.02, plain=0.01))
    assert chosen.name == "plain"
    assert chosen.summary.startswith("plain, 2.0x native at 1 row")


def test_the_likely_best_stays_where_others_are_as_fast():
    assert choice(kinds(native=0.011, plain=0.010)).name == "native"


def test_torchs_own_is_not_put_to_a_trial():
    assert choice(kinds(onednn=0.5, plain=0.0)).summary == "onednn"


def test_what_is_asked_for_is_taken_untried_or_refused():
    assert choice(kinds(native=1.0, plain=0.0), "native").name == "native"
    with pytest.raises(ValueError, match="no onednn linear layers for torch.bfloat16 here, only native, plain"):
        choice(kinds(native=0.0, plain=0.0), "onednn")
