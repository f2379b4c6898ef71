"""The native grammar mask against torch's, on every instruction set there is."""

from __future__ import annotations

import pytest
import torch

from quire.kernels.cpu import grammar as torch_grammar
from quire.kernels.cpu.native import grammar

pytestmark = pytest.mark.usefixtures("level")


def random_bits(num_rows: int, vocab_size: int, seed: int) -> torch.Tensor:
    """int32 [num_rows, W], some words of which allow all or nothing, as most words of real masks do."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_rows, -(-vocab_size // 32))
    words = torch.randint(-(1 << 31), 1 << 31, shape, dtype=torch.int64, generator=generator)
    kinds = torch.randint(0, 3, shape, generator=generator)
    words[kinds == 0], words[kinds == 1] = 0, -1
    return words.to(torch.int32)


@pytest.mark.parametrize("vocab_size", [1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 1000, 4097, 70_001])
@pytest.mark.parametrize("rows", [[], [0], [0, 1, 2, 3, 4], [1, 4]])
def test_a_row_keeps_the_same_logits_as_in_torch(vocab_size, rows):
    logits = torch.randn(5, vocab_size)
    bits = random_bits(len(rows), vocab_size, vocab_size)
    ours, theirs = logits.clone(), logits.clone()
    grammar.keep_allowed(ours, torch.tensor(rows, dtype=torch.int64), bits)
    torch_grammar.keep_allowed(theirs, torch.tensor(rows, dtype=torch.int64), bits)
    assert torch.equal(ours, theirs)


def test_rows_that_lie_apart_are_masked_where_they_lie():
    wide = torch.randn(3, 200)
    before = wide.clone()
    grammar.keep_allowed(wide[:, 10:110], torch.tensor([2]), torch.zeros(1, 4, dtype=torch.int32))
    assert torch.isinf(wide[2, 10:110]).all()
    wide[2, 10:110] = before[2, 10:110]
    assert torch.equal(wide, before)


def test_what_the_library_does_not_take_goes_to_torch():
    doubles = torch.randn(2, 70, dtype=torch.float64)
    turned = torch.randn(70, 2).T
    for logits in (doubles, turned):
        grammar.keep_allowed(logits, torch.tensor([1]), torch.tensor([[7, 0, 0]], dtype=torch.int32))
        assert torch.isfinite(logits[1]).nonzero().flatten().tolist() == [0, 1, 2] and torch.isfinite(logits[0]).all()
