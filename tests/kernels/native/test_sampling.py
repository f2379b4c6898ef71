"""Native draws, greedy tokens and logprobs against an exact sort in float64, on every instruction set there is."""

from __future__ import annotations

import itertools
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from quire.kernels.cpu import sampling as torch_sampling
from quire.kernels.cpu.native import build, library, sampling

DRIVER = Path(__file__).parent / "sampling_driver.cpp"
VOCAB_SIZES = [1, 2, 63, 64, 65, 1000, 4097, 20_011]
NAN = float("nan")


@pytest.fixture(params=list(build.LEVELS), autouse=True)
def level(request):
    """Each test runs with each library that can be had here."""
    if request.param not in build.supported_levels():
        pytest.skip(f"this CPU has no {request.param}")
    try:
        yield library.load(request.param)
    except build.BuildError as error:
        pytest.skip(str(error))
    library.load()


def rows_of(vocab_size: int, seed: int) -> dict[str, np.ndarray]:
    """Logits float32 [V] of the kinds that have something of their own to go wrong."""
    random = np.random.default_rng(seed)
    normal = random.normal(size=vocab_size)
    peaked = normal.copy()
    peaked[random.integers(vocab_size)] += 40
    masked = normal * 3
    masked[random.random(vocab_size) < 0.9] = -np.inf
    masked[random.integers(vocab_size)] = 1.0
    deep = normal - 30.0 * (np.arange(vocab_size) % 2)
    deep[vocab_size // 2] += 35
    kinds = {
        "flat": normal,
        "nearly equal": normal * 1e-4,
        "equal": np.full(vocab_size, 1.5),
        "steep": normal * 6,
        "ties": np.round(normal * 2) / 2,
        "signed zeros": np.where(normal > 0, 0.0, -0.0),
        "peaked": peaked,
        "rising": np.linspace(-8, 8, vocab_size),
        "masked": masked,
        "deep": deep,
        "tiny": normal * 1e-36,
    }
    return {name: values.astype(np.float32) for name, values in kinds.items()}


PARAMETERS = [
    {},
    {"temperature": 0.3},
    {"temperature": 7.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 300},
    {"top_k": 20_010},
    {"top_k": 10**9},
    {"top_p": 1e-6},
    {"top_p": 0.3},
    {"top_p": 0.9},
    {"top_p": 0.9999},
    {"min_p": 1e-5},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"top_k": 40, "top_p": 0.9},
    {"top_k": 2000, "top_p": 0.97, "min_p": 1e-3},
    {"temperature": 2.0, "top_k": 40, "top_p": 0.8, "min_p": 0.02},
]
DEFAULTS = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


def drawn(logits: torch.Tensor, uniforms: np.ndarray, **given: float) -> np.ndarray:
    wanted, count = {**DEFAULTS, **given}, len(uniforms)
    return sampling.sample(
        logits,
        torch.full((count,), wanted["temperature"]),
        torch.full((count,), wanted["top_k"], dtype=torch.int64),
        torch.full((count,), wanted["top_p"]),
        torch.full((count,), wanted["min_p"]),
        torch.from_numpy(uniforms),
    ).numpy()


class SortedRow:
    """One row the long way."""

    def __init__(self, logits: np.ndarray, temperature: float, top_k: int, top_p: float, min_p: float) -> None:
        scaled = logits / np.float32(temperature)
        self.order = np.argsort(-scaled, kind="stable")
        self.places = np.argsort(self.order)
        weights = np.exp(scaled.astype(np.float64) - float(scaled.max()))[self.order]
        weights[weights < np.float32(min_p)] = 0.0
        if top_k:
            weights[top_k:] = 0.0
        self.cumulative = np.cumsum(weights)
        self.num_kept = int(np.count_nonzero(weights))
        self.top_p = float(np.float32(top_p))

    def place(self, uniform: float, nudge: float = 0.0) -> int:
        """In the order, of the token drawn; `nudge` moves each boundary by that share."""
        last = self.num_kept - 1
        if self.top_p < 1:
            last = min(last, int(np.searchsorted(self.cumulative, self.cumulative[-1] * self.top_p * (1 + nudge))))
        target = uniform * self.cumulative[last] * (1 + nudge)
        return min(last, int(np.searchsorted(self.cumulative, target, side="right")))

    def may_be(self, token: int, uniform: float) -> bool:
        """Whether a token is the one, or becomes it when boundaries move by rounding."""
        nudge = 2e-6
        return self.place(uniform, -nudge) <= self.places[token] <= self.place(uniform, nudge)


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_a_draw_is_the_token_that_sorting_the_row_gives(vocab_size):
    random = np.random.default_rng(vocab_size)
    uniforms = np.concatenate(([0.0, 1 - 2.0**-53], random.random(3)))
    num_same = num_all = 0
    for (kind, logits), given in itertools.product(rows_of(vocab_size, 1).items(), PARAMETERS):
        exact = SortedRow(logits, **{**DEFAULTS, **given})
        tokens = drawn(torch.from_numpy(np.tile(logits, (len(uniforms), 1))), uniforms, **given)
        for token, uniform in zip(tokens.tolist(), uniforms.tolist(), strict=True):
            assert 0 <= token < vocab_size
            assert exact.may_be(token, uniform), f"{kind} {given} {uniform}: {token}"
            # The last uniform is itself within rounding of the end.
            if uniform < 0.9999:
                num_same += token == exact.order[exact.place(uniform)]
                num_all += 1
    assert num_same / num_all > 0.99


def test_draws_are_those_of_the_torch_backend():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(200, 3001, generator=generator) * torch.linspace(0.2, 6, 200)[:, None]
    columns = (
        torch.rand(200, generator=generator) * 2 + 0.1,
        torch.randint(0, 500, (200,), generator=generator) * (torch.arange(200) % 2),
        torch.where(torch.arange(200) % 3 == 0, 1.0, 0.9),
        torch.where(torch.arange(200) % 5 == 0, 0.05, 0.0),
        torch.rand(200, generator=generator, dtype=torch.float64),
    )
    ours = sampling.sample(logits.clone(), *columns)
    assert int((ours != torch_sampling.sample(logits.clone(), *columns)).sum()) <= 2


def test_draws_follow_the_distribution():
    """Chi-square of 20,000 draws from 40 tokens, fixed seed: 72 is passed by one seed in a thousand."""
    random, count = np.random.default_rng(11), 20_000
    logits = random.normal(size=40).astype(np.float32)
    tokens = drawn(torch.from_numpy(np.tile(logits, (count, 1))), random.random(count))
    expected = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum() * count
    found = np.bincount(tokens, minlength=40)
    assert ((found - expected) ** 2 / expected).sum() < 72


def test_a_row_draws_the_same_in_any_company_and_with_any_number_of_threads():
    logits = torch.from_numpy(np.stack(list(rows_of(4097, 3).values())))
    uniforms = np.random.default_rng(1).random(len(logits))
    before = torch.get_num_threads()
    try:
        for given in PARAMETERS:
            torch.set_num_threads(1)
            together = drawn(logits.clone(), uniforms, **given)
            torch.set_num_threads(3)
            assert drawn(logits.clone(), uniforms, **given).tolist() == together.tolist()
            for row in range(len(logits)):
                assert drawn(logits[row : row + 1].clone(), uniforms[row : row + 1], **given)[0] == together[row]
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_what_lies_between_rows_is_neither_read_nor_written(vocab_size):
    inner = torch.from_numpy(np.stack(list(rows_of(vocab_size, 5).values())))
    outer = torch.full((len(inner), vocab_size + 19), NAN)
    view = outer[:, :vocab_size]
    view.copy_(inner)
    token_ids = torch.arange(len(inner)) % vocab_size
    assert torch.equal(sampling.greedy(view), sampling.greedy(inner))
    assert torch.equal(sampling.rows_are_finite(view), torch.isfinite(inner).all(dim=1))
    for one, other in zip(
        sampling.token_logprobs(view, token_ids, 3), sampling.token_logprobs(inner, token_ids, 3), strict=True
    ):
        assert torch.equal(one, other)
    uniforms = np.random.default_rng(1).random(len(inner))
    assert drawn(view, uniforms, top_p=0.9).tolist() == drawn(inner, uniforms, top_p=0.9).tolist()
    assert bool(outer[:, vocab_size:].isnan().all())


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_greedy_takes_the_first_of_the_largest(vocab_size):
    rows = np.stack(list(rows_of(vocab_size, 2).values()))
    assert sampling.greedy(torch.from_numpy(rows)).tolist() == rows.argmax(axis=1).tolist()
    hidden = torch.full((1, vocab_size), -torch.inf)
    assert sampling.greedy(hidden).tolist() == [0]


@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_a_row_with_one_number_that_is_not_finite_is_found_wherever_it_stands(vocab_size):
    for place in {0, vocab_size // 2, vocab_size - 1}:
        logits = torch.randn(4, vocab_size) * 1e30
        for row, value in enumerate((NAN, torch.inf, -torch.inf)):
            logits[row, place] = value
        assert sampling.rows_are_finite(logits).tolist() == [False, False, False, True]


def test_rows_without_a_likeliest_token_give_some_token():
    logits = torch.full((3, 100), -torch.inf)
    logits[1] = NAN
    logits[2, 7:9] = torch.tensor([torch.inf, NAN])
    for given in PARAMETERS:
        assert all(0 <= token < 100 for token in drawn(logits.clone(), np.array([0.0, 0.5, 0.9]), **given))
    assert all(0 <= token < 100 for token in sampling.greedy(logits).tolist())


@pytest.mark.parametrize("num_top", [0, 1, 5, 30, 400])
@pytest.mark.parametrize("vocab_size", VOCAB_SIZES)
def test_logprobs_ranks_and_the_likeliest_are_those_of_a_sort(vocab_size, num_top):
    rows = np.stack(list(rows_of(vocab_size, 6).values()))
    token_ids = np.arange(len(rows)) * 7 % vocab_size
    tensors = sampling.token_logprobs(torch.from_numpy(rows), torch.from_numpy(token_ids), num_top)
    logprobs, ranks, top_ids, top = (tensor.numpy() for tensor in tensors)
    wide = rows.astype(np.float64)
    expected = wide - wide.max(axis=1, keepdims=True)
    expected -= np.log(np.exp(expected).sum(axis=1, keepdims=True))
    order = np.argsort(-rows, axis=1, kind="stable")[:, :num_top]
    every = np.arange(len(rows))
    np.testing.assert_allclose(logprobs, expected[every, token_ids], atol=2e-5)
    assert ranks.tolist() == ((rows > rows[every, token_ids][:, None]).sum(axis=1) + 1).tolist()
    assert top_ids.tolist() == order.tolist()
    np.testing.assert_allclose(top, np.take_along_axis(expected, order, axis=1), atol=2e-5)


def test_what_the_library_does_not_take_goes_to_torch():
    wide = torch.randn(3, 50, dtype=torch.float64)
    across = torch.randn(50, 3).t()
    for logits in (wide, across):
        assert torch.equal(sampling.greedy(logits), logits.argmax(dim=1))
        assert sampling.rows_are_finite(logits).tolist() == [True] * 3
        ours = sampling.token_logprobs(logits, torch.tensor([1, 2, 3]), 2)
        assert torch.equal(ours[2], torch.topk(logits, 2).indices)
    assert sampling.greedy(torch.empty(0, 10)).tolist() == []


def test_the_self_test_passes():
    sampling.check()


def test_no_memory_is_touched_that_is_not_the_rows_own(tmp_path, level):
    """The driver calls everything on rows that end where their memory ends, under the sanitizers."""
    compiler = shutil.which("g++")
    if compiler is None or level != build.supported_levels()[0]:
        pytest.skip("there is no g++, or a better instruction set")
    flags = [*build.BASE_FLAGS, *build.LEVELS[level][1], "-O1", "-g", "-fsanitize=address,undefined"]
    sources = [str(DRIVER), *(str(build.SOURCE / name) for name in ("sampling.cpp", "sampling_draw.cpp"))]
    command = [compiler, *flags, "-fno-sanitize-recover=all", f"-I{build.SOURCE}", *sources, "-o"]
    made = subprocess.run([*command, str(tmp_path / "driver")], capture_output=True, text=True)
    if "cannot find" in made.stderr:
        pytest.skip("the sanitizers' libraries are not there")
    assert made.returncode == 0, made.stderr
    run = subprocess.run([str(tmp_path / "driver")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
