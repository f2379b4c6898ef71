"""Draws, penalties and logprobs against plain implementations over the whole vocabulary."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quire import kernels
from quire.kernels.cpu.sampling import likeliest


def filtered(logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> np.ndarray:
    """Probabilities [V] after all filters, one row, the long way."""
    scaled = (logits.astype(np.float32) / np.float32(temperature)).astype(np.float64)
    weights = np.exp(scaled - scaled.max())
    weights[weights < min_p] = 0.0
    order = np.argsort(-scaled, kind="stable")
    if top_k:
        weights[order[top_k:]] = 0.0
    if top_p < 1:
        cumulative = np.cumsum(weights[order])
        num_kept = int(np.searchsorted(cumulative, cumulative[-1] * np.float32(top_p))) + 1
        weights[order[num_kept:]] = 0.0
    return weights / weights.sum()


def draw(logits: torch.Tensor, uniforms: np.ndarray, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0) -> np.ndarray:
    count = len(uniforms)
    return kernels.sample(
        logits.expand(count, -1).clone(),
        torch.full((count,), temperature),
        torch.full((count,), top_k, dtype=torch.int64),
        torch.full((count,), top_p),
        torch.full((count,), min_p),
        torch.from_numpy(uniforms),
    ).numpy()


SETTINGS = [
    {},
    {"temperature": 0.3},
    {"temperature": 3.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 256},
    {"top_k": 400},
    {"top_p": 0.9},
    {"top_p": 0.2},
    {"top_p": 0.999},
    {"min_p": 0.1},
    {"min_p": 1e-6},
    {"min_p": 0.02, "top_p": 0.8, "top_k": 40, "temperature": 1.7},
    {"top_k": 500, "top_p": 0.97},
    {"top_p": 0.99, "temperature": 5.0},
]


@pytest.mark.parametrize("parameters", SETTINGS, ids=str)
@pytest.mark.parametrize(("vocab_size", "spread"), [(50, 1.0), (600, 2.0), (3000, 0.3)])
def test_draws_follow_the_filtered_distribution(parameters, vocab_size, spread):
    """A grid of uniforms hits each token in proportion, to one grid step: exact, not statistical."""
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randn(vocab_size, generator=generator) * spread
    count = 4000
    drawn = draw(logits, (np.arange(count) + 0.5) / count, **parameters)
    probabilities = filtered(
        logits.numpy(), **{"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, **parameters}
    )
    frequencies = np.bincount(drawn, minlength=vocab_size) / count
    assert np.all(probabilities[np.unique(drawn)] > 0)
    assert np.abs(frequencies - probabilities).max() < 1.5 / count


@settings(max_examples=60, deadline=None)
@given(
    temperature=st.floats(0.05, 5),
    top_k=st.one_of(st.just(0), st.integers(1, 700)),
    top_p=st.one_of(st.just(1.0), st.floats(0.01, 1)),
    min_p=st.one_of(st.just(0.0), st.floats(0, 1)),
    uniform=st.one_of(st.just(0.0), st.just(1 - 2.0**-53), st.floats(0, 1, exclude_max=True)),
    seed=st.integers(0, 100),
)
def test_a_draw_is_always_a_token_that_may_be_drawn(temperature, top_k, top_p, min_p, uniform, seed):
    logits = torch.randn(700, generator=torch.Generator().manual_seed(seed)) * 3
    (token,) = draw(logits, np.array([uniform]), temperature, top_k, top_p, min_p)
    probabilities = filtered(logits.numpy(), temperature, top_k, np.float32(top_p), np.float32(min_p))
    # Where cuts meet rounding, the neighbour of the last kept token may come in.
    at_the_cut = np.sort(probabilities[probabilities > 0])[0]
    scaled = np.exp((logits.numpy() - logits.numpy().max()) / temperature)
    assert probabilities[token] > 0 or scaled[token] * 1.0001 >= at_the_cut * scaled.sum() * 0.99


def test_a_row_draws_the_same_in_any_company():
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(40, 2000, generator=generator) * torch.linspace(0.1, 4, 40)[:, None]
    columns = (
        torch.rand(40, generator=generator) * 2 + 0.1,
        torch.randint(0, 500, (40,), generator=generator) * (torch.arange(40) % 2),
        torch.where(torch.arange(40) % 3 == 0, 1.0, 0.9),
        torch.where(torch.arange(40) % 5 == 0, 0.05, 0.0),
        torch.rand(40, generator=generator, dtype=torch.float64),
    )
    together = kernels.sample(logits.clone(), *columns)
    for row in range(40):
        alone = kernels.sample(logits[row : row + 1].clone(), *(column[row : row + 1] for column in columns))
        assert int(alone) == int(together[row])


def test_hidden_tokens_are_never_drawn():
    logits = torch.full((1, 1000), -torch.inf)
    logits[0, [17, 900]] = torch.tensor([0.0, -1.0])
    drawn = draw(logits, np.linspace(0, 1, 50, endpoint=False), temperature=4.0)
    assert set(drawn.tolist()) == {17, 900}


def test_greedy_takes_the_first_of_equals():
    assert kernels.greedy(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]])).tolist() == [1, 0]


def test_rows_that_are_not_finite_are_found():
    logits = torch.zeros(4, 10)
    logits[1, 3], logits[2, 9], logits[3, 0] = torch.nan, torch.inf, -torch.inf
    assert kernels.rows_are_finite(logits).tolist() == [True, False, False, False]


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 12), st.integers(0, 12)), min_size=1, max_size=4),
    seed=st.integers(0, 10_000),
)
def test_penalties_are_their_definition(lengths, seed):
    """lengths: (prompt, output) tokens of each row, over a small vocabulary, so that ids repeat."""
    random = np.random.default_rng(seed)
    vocab_size, count, width = 9, len(lengths), max(p + o for p, o in lengths)
    token_ids = random.integers(0, vocab_size, (count, width))
    places = np.arange(width)
    is_token = places < np.array([[p + o] for p, o in lengths])
    is_output = is_token & (places >= np.array([[p] for p, _ in lengths]))
    repetition, frequency, presence = (
        random.uniform(low, high, count).astype(np.float32) for low, high in ((0.5, 2), (-2, 2), (-2, 2))
    )
    logits = random.normal(size=(count, vocab_size)).astype(np.float32)
    expected = logits.copy()
    for row in range(count):
        seen, outputs = token_ids[row][is_token[row]], token_ids[row][is_output[row]]
        for token in range(vocab_size):
            if token in seen:
                factor = repetition[row]
                expected[row, token] = (
                    expected[row, token] / factor if expected[row, token] > 0 else expected[row, token] * factor
                )
            occurrences = int((outputs == token).sum())
            expected[row, token] -= frequency[row] * occurrences + presence[row] * (occurrences > 0)
    ours = torch.from_numpy(logits)
    columns = (token_ids, is_token, is_output, repetition, frequency, presence)
    kernels.apply_penalties(ours, *(torch.from_numpy(column) for column in columns))
    np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("num_top", [0, 1, 20])
def test_logprobs_are_log_softmax_and_rank(num_top):
    torch.manual_seed(3)
    logits = torch.randn(6, 300) * 3
    token_ids = torch.tensor([0, 299, 5, 7, 7, 100])
    token_ids[0] = logits[0].argmax()
    chosen, ranks, top_ids, top = kernels.token_logprobs(logits.clone(), token_ids, num_top)
    expected = torch.log_softmax(logits.double(), dim=-1)
    torch.testing.assert_close(chosen.double(), expected.gather(1, token_ids[:, None])[:, 0], atol=1e-5, rtol=0)
    order = expected.argsort(dim=-1, descending=True)
    assert ranks.tolist() == [int((order[row] == token_ids[row]).nonzero()) + 1 for row in range(6)]
    assert ranks[0] == 1
    assert torch.equal(top_ids, order[:, :num_top])
    torch.testing.assert_close(top.double(), expected.gather(1, top_ids), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("vocab_size", "count"), [(30, 64), (4095, 64), (4097, 64), (5003, 64), (151_936, 1024)])
def test_the_likeliest_are_those_of_a_plain_top_k(vocab_size, count):
    logits = torch.randn(3, vocab_size, generator=torch.Generator().manual_seed(1))
    logits[1, -3:] = 9.0 + torch.arange(3)
    logits[2, 100:] = -torch.inf
    values, ids = likeliest(logits, count)
    assert torch.equal(values, torch.topk(logits, min(count, vocab_size)).values)
    assert torch.equal(logits.gather(1, ids), values)
    assert all(len(set(row)) == len(row) for row in ids.tolist())
