"""Logprobs, ranks and the likeliest tokens against the specification, within guards."""

from __future__ import annotations

import pytest
import torch

from quire.kernels import cpu


def check(backend, guards, logits: torch.Tensor, ids: list[int], num_top: int) -> None:
    out = backend.token_logprobs(guards.put(logits), guards.put(torch.tensor(ids)), num_top)
    logprobs, ranks, top_ids, top_logprobs = (tensor.cpu() for tensor in out)
    exact = torch.log_softmax(logits.double(), dim=-1)
    chosen = exact.gather(1, torch.tensor(ids)[:, None])
    torch.testing.assert_close(logprobs.double(), chosen[:, 0], rtol=1e-5, atol=2e-6)
    assert torch.equal(ranks, (exact > chosen).sum(-1) + 1)
    order = torch.sort(logits, dim=-1, descending=True, stable=True).indices[:, :num_top]
    torch.testing.assert_close(top_logprobs.double(), exact.gather(1, order), rtol=1e-5, atol=2e-6)
    if backend is not cpu:
        # torch.topk does not say which of equals comes first; ours is the lower id.
        assert torch.equal(top_ids, order)


@pytest.mark.parametrize(
    ("vocab_size", "num_top"), [(5003, 20), (4096, 1), (129, 5), (3, 3), (8200, 0)]
)  # fmt: skip
def test_chosen_and_likeliest(vocab_size, num_top, backend, guards) -> None:
    logits = torch.randn(3, vocab_size, generator=torch.Generator().manual_seed(vocab_size)) * 3
    check(backend, guards, logits, [0, vocab_size - 1, int(logits[2].argmax())], num_top)


def test_equals_come_by_id_within_a_group_and_across(backend, guards) -> None:
    logits = torch.randint(0, 3, (2, 700), generator=torch.Generator().manual_seed(4)).float()
    logits[1] = 0.0
    logits[0, [130, 131, 250, 699]] = 9.0
    check(backend, guards, logits, [131, 5], 20)


def test_hidden_tokens_come_last(backend, guards) -> None:
    logits = torch.full((2, 300), -torch.inf)
    logits[:, [3, 299]] = 1.0
    logits[1, 130] = -4.0
    check(backend, guards, logits, [3, 130], 2)
    out = backend.token_logprobs(guards.put(logits), guards.put(torch.tensor([7, 7])), 5)
    assert out[0].isneginf().all() and out[1].tolist() == [3, 4]
    assert sorted(len(set(ids)) for ids in out[2].tolist()) == [5, 5]


@pytest.mark.filterwarnings("ignore:All-NaN")
def test_a_row_that_is_not_finite_stays_alone(backend, guards) -> None:
    logits = torch.randn(3, 200, generator=torch.Generator().manual_seed(2))
    for hidden in (slice(50, 51), slice(None)):
        logits[1, hidden] = torch.nan
        check_others(backend, guards, logits)


def check_others(backend, guards, logits: torch.Tensor) -> None:
    out = backend.token_logprobs(guards.put(logits), guards.put(torch.tensor([5, 5, 5])), 3)
    expected = torch.log_softmax(logits, -1)
    torch.testing.assert_close(out[0].cpu()[[0, 2]], expected[[0, 2], 5])
    assert ((out[2] >= 0) & (out[2] < 200)).all()


def test_rows_may_lie_further_apart_and_there_may_be_none(backend, guards) -> None:
    logits = torch.randn(2, 150, generator=torch.Generator().manual_seed(3))
    wide = guards.empty(2, 160)
    wide[:, :150] = logits.to(wide.device)
    ids = guards.put(torch.tensor([1, 149]))
    out = backend.token_logprobs(wide[:, :150], ids, 4)
    assert torch.equal(out[2].cpu(), torch.topk(logits, 4).indices)
    assert backend.token_logprobs(wide[:0, :150], ids[:0], 4)[2].shape == (0, 4)
