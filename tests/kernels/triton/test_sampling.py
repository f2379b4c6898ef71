"""The device's sampler against its specification: noise, edits, penalties, grammar, cuts, draws; within guards."""

from __future__ import annotations

from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from guards import Guards

from quire.kernels import cpu
from quire.kernels.cpu import gumbel
from quire.kernels.slot_state import make_slots

SUPPRESSED = -1e20


class Row(NamedTuple):
    """What one slot asks for, and what it has had."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    frequency: float = 0.0
    presence: float = 0.0
    seed: int = 11
    prompt: tuple[int, ...] = ()
    outputs: tuple[int, ...] = ()
    position: int = 0
    edits: tuple[tuple[int, float, int], ...] = ()
    """(id, value, until)"""
    allowed: tuple[int, ...] | None = None


def specified(logits: torch.Tensor, row: Row) -> int:
    """The token of one row of logits [V], the long way."""
    values = logits.float().clone()
    for id, value, until in row.edits:
        values[id] += value if row.position < until else 0
    if row.allowed is not None:
        hidden = torch.ones(len(values), dtype=torch.bool)
        hidden[list(row.allowed)] = False
        values[hidden] = -torch.inf
    if row.prompt or row.outputs:
        ids = torch.tensor([[*row.prompt, *row.outputs]])
        is_output = torch.arange(ids.shape[1])[None] >= len(row.prompt)
        factors = (torch.tensor([factor]) for factor in (row.repetition, row.frequency, row.presence))
        cpu.apply_penalties(values[None], ids, torch.ones_like(is_output), is_output, *factors)
    cuts = row.top_k, float(np.float32(row.top_p)), float(np.float32(row.min_p))
    return gumbel.draw(values, row.temperature, *cuts, row.seed, row.position)


class Step(NamedTuple):
    tokens: list[int]
    is_ok: list[bool]
    state: Any


def sample(
    logits: torch.Tensor, rows: list[Row | None], backend: ModuleType, guards: Guards, max_edits: int = 8
) -> Step:
    """One step over rows, whose slots lie in reverse with a gap; None pads."""
    device, vocab_size = torch.device(guards.device), logits.shape[1]
    state = make_slots(len(rows) + 2, vocab_size, max_edits, device)
    words = -(-vocab_size // 32)
    grammar = torch.zeros(len(rows), words * 32, dtype=torch.int64)
    slots, grammar_rows = [], []
    for at, row in enumerate(rows):
        slots.append(-1 if row is None else len(rows) - at)
        grammar_rows.append(-1 if row is None or row.allowed is None else at)
        if row is None:
            continue
        slot = slots[-1]
        for name in ("temperature", "top_k", "top_p", "min_p", "repetition", "frequency", "presence"):
            getattr(state, name)[slot] = getattr(row, name)
        state.seed[slot] = row.seed - (1 << 64) if row.seed >= 1 << 63 else row.seed
        state.num_outputs[slot] = row.position
        ids = torch.tensor([*row.prompt, *row.outputs], dtype=torch.int32)
        backend.remember_tokens(state.counts, slot, guards.put(ids), len(row.prompt))
        state.num_edits[slot] = len(row.edits)
        for place, (id, value, until) in enumerate(sorted(row.edits)):
            state.edit_ids[slot, place], state.edit_values[slot, place] = id, value
            state.edit_until[slot, place] = until
        grammar[at, list(row.allowed or ())] = 1
    packed = (grammar.view(len(rows), words, 32) << torch.arange(32)).sum(-1)
    packed = torch.where(packed >= 1 << 31, packed - (1 << 32), packed).int()
    tokens, is_ok = guards.empty(len(rows), dtype=torch.int32), guards.empty(len(rows), dtype=torch.bool)
    backend.sample_slots(
        guards.put(logits) if logits.is_contiguous() else logits,
        guards.put(torch.tensor(slots, dtype=torch.int32)),
        guards.put(torch.tensor(grammar_rows, dtype=torch.int32)),
        guards.put(packed),
        state,
        backend.make_sampling_workspace(len(rows), vocab_size, device),
        tokens,
        is_ok,
    )
    return Step(tokens.tolist(), is_ok.tolist(), state)


def random_logits(rows: int, vocab_size: int, seed: int = 0, spread: float = 2.0) -> torch.Tensor:
    return torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * spread


def test_noise_is_philox_and_gumbel() -> None:
    """The words of Random123's own test vector, and the moments of the distribution."""
    words = gumbel._philox(np.zeros(1, np.uint64), 0, 0)
    assert [int(word[0]) for word in words] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    noise = gumbel.gumbel_noise(3, 5, np.arange(100_000)).astype(np.float64)
    assert np.isfinite(noise).all()
    assert abs(noise.mean() - np.euler_gamma) < 0.02 and abs(noise.var() - np.pi**2 / 6) < 0.05


def test_the_specification_draws_what_it_keeps_in_proportion() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, 2.0, -1.0])
    kept = gumbel.kept(logits, 3, 1.0, 0.0)
    assert kept.tolist() == [True, False, True, True, False]
    drawn = np.array([gumbel.draw(logits, 1.0, 3, 1.0, 0.0, 7, position) for position in range(4000)])
    expected = torch.softmax(logits.masked_fill(~kept, -torch.inf), 0).numpy()
    assert np.abs(np.bincount(drawn, minlength=5) / 4000 - expected).max() < 0.03


PLAIN = [
    Row(temperature=0.0),
    Row(seed=(1 << 64) - 3, position=2**31 - 2),
    Row(temperature=0.3, seed=1 << 40),
    Row(temperature=3.0, position=100_000),
]


@pytest.mark.parametrize("vocab_size", [4096 * 2 + 5, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_rows_without_cuts(vocab_size, dtype, backend, guards) -> None:
    logits = random_logits(len(PLAIN), vocab_size).to(dtype)
    step = sample(logits, [*PLAIN], backend, guards)
    expected = [specified(row, asked) for row, asked in zip(logits, PLAIN, strict=True)]
    assert step.tokens == expected and all(step.is_ok)


CUTS = [
    Row(top_k=1),
    Row(top_k=7, seed=2),
    Row(top_k=600, seed=3),
    Row(top_p=0.9, seed=4),
    Row(top_p=0.05, seed=5),
    Row(top_p=0.995, temperature=3.0, seed=6),
    Row(min_p=0.1, seed=7),
    Row(min_p=1.0, seed=8),
    Row(min_p=0.001, top_p=0.8, top_k=40, temperature=1.7, seed=9),
    Row(min_p=0.0001, top_p=0.99, temperature=4.0, seed=10),
    Row(top_k=3000, top_p=0.97, temperature=2.0, seed=12),
    Row(temperature=0.0, top_k=3, top_p=0.2),
]


@pytest.mark.parametrize("vocab_size", [4096 + 77, 130])
def test_rows_with_cuts(vocab_size, backend, guards) -> None:
    logits = random_logits(len(CUTS), vocab_size, seed=1)
    step = sample(logits, [*CUTS], backend, guards)
    assert step.tokens == [specified(row, asked) for row, asked in zip(logits, CUTS, strict=True)]
    assert all(step.is_ok)


@pytest.mark.parametrize(
    "row", [Row(top_k=5), Row(top_k=2000), Row(top_p=0.5), Row(top_k=400, top_p=0.3), Row(min_p=0.9, top_k=2)], ids=str
)
def test_of_equals_the_lower_ids_stay(row, backend, guards) -> None:
    """Logits of few different values: ties at every cut, and more of them than can be set aside."""
    logits = torch.randint(-1, 2, (1, 4500), generator=torch.Generator().manual_seed(3)).float()
    rows: list[Row | None] = [row._replace(seed=seed) for seed in range(2)]
    step = sample(logits.expand(2, -1).contiguous(), rows, backend, guards)
    assert step.tokens == [specified(logits[0], asked) for asked in rows if asked]


def test_the_set_that_is_kept_is_exact(backend, guards) -> None:
    """Flat logits make every kept token come up: none that is not kept ever does, all that are do."""
    logits = torch.linspace(0, 0.05, 40)[torch.randperm(40, generator=torch.Generator().manual_seed(1))][None]
    row = Row(top_k=4, top_p=0.7)
    kept = gumbel.kept(logits[0], 4, float(np.float32(0.7)), 0.0)
    assert int(kept.sum()) == 3
    rows: list[Row | None] = [row._replace(seed=seed) for seed in range(12)]
    step = sample(logits.expand(12, -1).contiguous(), rows, backend, guards)
    assert set(step.tokens) == set(torch.nonzero(kept)[:, 0].tolist())


def test_edits_grammar_and_penalties_come_before_the_draw(backend, guards) -> None:
    vocab_size = 4096 + 35
    always = 2**31 - 1
    likely = (4100, 4130, 17)
    rows = [
        Row(temperature=0.0, edits=((0, 30.0, always), (4130, 40.0, always))),
        Row(temperature=0.0, position=3, edits=((5, 50.0, 3), (4096, 20.0, 4), (4095, 19.0, always))),
        Row(allowed=likely, edits=((4100, SUPPRESSED, always),)),
        Row(allowed=(4095, 4096, 31, 32, 4130), top_k=3),
        Row(temperature=0.0, allowed=(9,), edits=((9, SUPPRESSED, always),)),
        Row(repetition=1.8, frequency=0.7, presence=0.5, prompt=(3, 3, 4130), outputs=(4130, 5, 5, 5), position=4),
        Row(temperature=0.0, frequency=-2.0, outputs=(77,) * 20, position=20),
        Row(temperature=0.0, repetition=0.1, prompt=(4128,)),
        Row(top_p=0.9, presence=9.0, outputs=tuple(range(60)), position=60),
    ]
    logits = random_logits(len(rows), vocab_size, seed=2)
    logits[6, 77], logits[7, 4128] = -30.0, 4.0
    step = sample(logits, [*rows], backend, guards)
    assert step.tokens == [specified(row, asked) for row, asked in zip(logits, rows, strict=True)]
    assert all(step.is_ok)
    assert step.tokens[0] == 4130 and step.tokens[4] == 9 and step.tokens[6:8] == [77, 4128]


def test_a_draw_is_counted_where_it_was_made(backend, guards) -> None:
    logits = torch.zeros(3, 70)
    logits[0, 69] = logits[2, 1] = 9.0
    rows = [Row(temperature=0.0, outputs=(69, 2), position=2), None, Row(temperature=0.0, prompt=(1,))]
    step = sample(logits, rows, backend, guards)
    assert step.tokens == [69, 0, 1] and all(step.is_ok)
    counts = step.state.counts.outputs.cpu()
    assert counts.sum() == 4 and counts[3, 69] == 2 and counts[3, 2] == 1 and counts[1, 1] == 1
    assert step.state.num_outputs.tolist() == [0, 1, 0, 3, 0]
    assert step.state.counts.prompt[1, 0] == 2


def test_rows_that_cannot_be_drawn_from_say_so_and_leave_their_slots(backend, guards) -> None:
    logits = random_logits(7, 4200)
    logits[1, 4199], logits[2, 0], logits[3, 5] = torch.nan, torch.inf, -torch.inf
    bad = Row(top_k=4)
    rows = [Row(), Row(), bad, Row(temperature=0.0), Row(allowed=()), Row(allowed=(), top_p=0.5), Row()]
    step = sample(logits, [*rows], backend, guards)
    assert step.is_ok == [True, False, False, False, False, False, True]
    assert step.tokens[1:6] == [0] * 5
    assert step.tokens[0] == specified(logits[0], rows[0]) and step.tokens[6] == specified(logits[6], rows[6])
    assert step.state.num_outputs.tolist() == [0, 1, 0, 0, 0, 0, 0, 1, 0]
    assert step.state.counts.outputs.sum() == 2


def test_rows_may_lie_further_apart_than_the_vocabulary(backend, guards) -> None:
    logits = random_logits(3, 101, seed=5)
    wide = guards.empty(3, 128)
    wide[:, :101] = logits.to(wide.device)
    rows = [Row(), Row(top_k=4), Row(temperature=0.0)]
    step = sample(wide[:, :101], [*rows], backend, guards)
    assert step.tokens == [specified(row, asked) for row, asked in zip(logits, rows, strict=True)]


def test_a_row_draws_the_same_in_any_company_and_any_slot(backend, guards) -> None:
    logits = random_logits(4, 300, seed=6)
    rows: list[Row | None] = [Row(), Row(top_p=0.8), Row(temperature=2.0, min_p=0.01), Row(top_k=30)]
    together = sample(logits, rows, backend, guards).tokens
    turned = sample(logits.flip(0), rows[::-1], backend, guards).tokens
    assert turned[::-1] == together
    assert sample(logits[1:2], rows[1:2], backend, guards).tokens == together[1:2]
