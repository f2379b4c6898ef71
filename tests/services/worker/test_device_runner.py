"""The device runner on a CPU, against the host runner: the same answers to any plans, eager and replayed."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from checkpoints import make_checkpoint
from plans import BLOCK_SIZE, Driver, ids_of, int32

from quire import kernels
from quire.kernels.cpu import gumbel
from quire.services.worker import sampler
from quire.services.worker.errors import PlanError
from quire.services.worker.model_runner import ModelRunner
from quire.shared.messages import Masks, Plan

VOCAB = 384
KINDS = {"eager": {"enforce_eager": True}, "graphs": {}}


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = random.Random(seed * 1000 + length)
    return [generator.randrange(VOCAB) for _ in range(length)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_checkpoint("qwen3", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def runners(folder) -> dict[str, ModelRunner]:
    made = {name: ModelRunner(folder, "cpu", "float32", threads=1, runner="device", **of) for name, of in KINDS.items()}
    made["host"] = ModelRunner(folder, "cpu", "float32", threads=1, runner="host")
    return made


@pytest.fixture
def host_draws_as_devices(monkeypatch) -> None:
    """The host draws by inverse CDF, a device by Gumbel-max: here both draw the device's way."""

    def drawn(logits: torch.Tensor, columns: np.ndarray, num_outputs: np.ndarray) -> torch.Tensor:
        rows = zip(logits, columns, num_outputs.tolist(), strict=True)
        names = ("temperature", "top_k", "top_p", "min_p", "seed")
        numbers = [
            gumbel.draw(row, *(of[name].item() for name in names), position)  # type: ignore[arg-type]
            for row, of, position in rows
        ]
        return torch.tensor(numbers)

    monkeypatch.setattr(sampler, "_random", drawn)


PARAMS = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.7, "top_k": 5, "logprobs": 3},
    {"temperature": 1.3, "top_p": 0.8, "min_p": 0.01},
    {"temperature": 0.9, "repetition_penalty": 1.4, "frequency_penalty": 0.3, "presence_penalty": -0.5},
    {"repetition_penalty": 0.7, "logit_bias": {7: 12.0, 300: -100.0}, "logprobs": 0},
    {"temperature": 1.0, "allowed_token_ids": [3, 31, 32, 200, 383], "logit_bias": {31: 2.0}},
    {"temperature": 1.0, "min_tokens": 6, "stop_token_ids": list(range(0, 380, 2)), "bad_token_ids": [1, 3, 5]},
]


@pytest.mark.usefixtures("host_draws_as_devices")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_any_schedule_gives_what_the_host_runner_gives(runners, kind, seed):
    """Rows of all parameters come, are cut anywhere, wait, are preempted: every answer is the same, byte for byte."""
    expected, found = [], []
    for name, results in (("host", expected), (kind, found)):
        generator = random.Random(seed)
        driver = Driver(runners[name])
        rows = [
            driver.row(slot, prompt(generator.randint(1, 40), slot), seed=(1 << 63) + slot, **PARAMS[slot])
            for slot in range(8)
        ]
        rows[2].params = rows[2].params.__class__(**{**PARAMS[2], "prompt_logprobs": 2})
        while unfinished := [row for row in rows if len(row.output) < 12]:
            parts = []
            for row in unfinished:
                fate = generator.random()
                if fate < 0.08 and not row.is_new:
                    driver.preempt(row)
                elif fate > 0.3:
                    parts.append((row, generator.randint(1, row.num_missing)))
            if parts:
                results.append(driver.step(parts))
    assert len(expected) == len(found) > 12
    for one, other in zip(expected, found, strict=True):
        assert one.token_ids == other.token_ids
        assert one.failed_rows == other.failed_rows == []
        for ours, theirs in ((one.logprobs, other.logprobs), (one.prompt_logprobs, other.prompt_logprobs)):
            assert [(entry.row, entry.ranks, entry.top_ids) for entry in ours] == [
                (entry.row, entry.ranks, entry.top_ids) for entry in theirs
            ]
            for a, b in zip(ours, theirs, strict=True):
                for field in ("logprobs", "top_logprobs"):
                    np.testing.assert_allclose(
                        *(np.frombuffer(getattr(e, field), np.float32) for e in (a, b)), atol=1e-4
                    )


def masked_step(driver: Driver, parts: list, generator: random.Random) -> tuple[list[int], list[set[int] | None]]:
    """One step of which some rows have masks; its tokens, and what each row was allowed (None: all)."""
    parts = sorted(parts, key=lambda part: part[1] != 1)
    sampling = [row for row, count in parts if count == row.num_missing]
    allowed = [set(generator.sample(range(VOCAB), 9)) | {3} if generator.random() < 0.7 else None for _ in sampling]
    bits = np.zeros((len(sampling), VOCAB), np.uint8)
    for place, ids in enumerate(allowed):
        bits[place, sorted(ids or ())] = 1
    rows = [place for place, ids in enumerate(allowed) if ids is not None]
    plan = msgspec.structs.replace(driver.plan(parts), awaits_masks=True)
    masks = Masks(plan.step, int32(*rows), np.packbits(bits[rows], axis=1, bitorder="little").tobytes())
    result = driver.runner.step(plan, lambda step: masks)
    driver.commit(parts, result)
    return ids_of(result.token_ids), allowed


@pytest.mark.usefixtures("host_draws_as_devices")
@pytest.mark.parametrize("kind", KINDS)
def test_masked_rows_draw_only_what_is_allowed_and_the_same_as_on_the_host(runners, kind):
    found: dict[str, list[list[int]]] = {"host": [], kind: []}
    for name, steps in found.items():
        generator, driver = random.Random(5), Driver(runners[name])
        rows = [driver.row(slot, prompt(5 + slot, slot), seed=slot, **PARAMS[slot]) for slot in range(7)]
        for _ in range(10):
            parts = [(row, row.num_missing) for row in rows if generator.random() < 0.8]
            tokens, allowed = masked_step(driver, parts, generator)
            assert all(ids is None or token in ids for token, ids in zip(tokens, allowed, strict=True))
            steps.append(tokens)
    assert found["host"] == found[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_plans_may_be_handed_on_before_the_last_answer_is_collected(runners, kind):
    rows, tokens = [], []
    for runner in (runners["host"], runners[kind]):
        driver = Driver(runner)
        row = driver.row(0, prompt(9))
        row.blocks = driver.take_blocks(12)
        runner.submit(driver.plan([(row, row.num_missing)]))
        for computed in range(9, 9 + 20):
            runner.submit(Plan(computed, [], [], b"", b"", b"", int32(0), int32(1), int32(computed)))
        found = []
        while len(found) < 21:
            found += runner.collect()
        assert [result.step for result in found[1:]] == list(range(9, 29))
        rows.append(row)
        tokens.append([token for result in found for token in ids_of(result.token_ids)])
    assert tokens[0] == tokens[1]


@pytest.mark.parametrize("kind", KINDS)
def test_forked_rows_share_full_blocks_and_copy_the_last(runners, kind):
    outputs = []
    for runner in (runners["host"], runners[kind]):
        driver = Driver(runner)
        first = driver.row(0, prompt(4 * BLOCK_SIZE + 2))
        others = [driver.row(slot, first.ids) for slot in (1, 2)]
        driver.step([(first, first.num_missing)])
        copies = []
        for row in others:
            row.blocks = first.blocks[:4] + driver.take_blocks(1)
            row.num_computed = first.num_prompt - 1
            copies.append((first.blocks[4], row.blocks[4]))
        # The second copy is of what the first has copied.
        copies[1] = (others[0].blocks[4], others[1].blocks[4])
        driver.step([(first, 1), *((row, 1) for row in others)], copies)
        driver.run([first, *others], 20)
        assert len({tuple(row.output[:20]) for row in (first, *others)}) == 1
        outputs.append(first.output)
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_whose_logits_are_not_finite_fails_alone(runners, kind):
    driver = Driver(runners[kind])
    sick, healthy = driver.row(0, prompt(6)), driver.row(1, prompt(9), logprobs=1)
    driver.step([(sick, 6), (healthy, 9)])
    with torch.inference_mode():
        runners[kind]._kv_cache.values[:, sick.blocks[0]] = torch.nan
    driver.run([sick, healthy], 6)
    assert (sick.num_failures, healthy.num_failures) == (5, 0)
    alone = Driver(runners["host"])
    row = alone.row(3, prompt(9))
    alone.run([row], 6)
    assert healthy.output == row.output
    assert len(healthy.logprobs) == 6


@pytest.mark.parametrize("kind", KINDS)
def test_a_recycled_slot_keeps_nothing_of_the_row_before(runners, kind):
    driver = Driver(runners[kind])
    first = driver.row(
        0, prompt(20), allowed_token_ids=[5], min_tokens=9, presence_penalty=2.0, logprobs=2, logit_bias={9: 100.0}
    )
    driver.run([first], 5)
    assert first.output == [5] * 5
    driver.preempt(first)
    second = driver.row(0, prompt(7))
    driver.run([second], 20)
    alone = Driver(runners["host"])
    row = alone.row(3, prompt(7))
    alone.run([row], 20)
    assert second.output == row.output
    assert second.logprobs == []


def test_changes_beyond_one_copy_go_in_several(folder, monkeypatch):
    """Prompts and tables of many rows at once, through copies of a few words."""
    outputs = []
    for words in (1 << 20, 200):
        monkeypatch.setattr("quire.services.worker.device_runner.CHANGE_WORDS", words)
        driver = Driver(
            ModelRunner(folder, "cpu", "float32", threads=1, runner="device", enforce_eager=True), budget=512
        )
        rows = [driver.row(slot, prompt(90 + slot), allowed_token_ids=[1, 2, 3 + slot]) for slot in range(5)]
        for row in rows:
            row.blocks = driver.take_blocks(32)
        driver.step([(row, 20) for row in rows])
        driver.run(rows, 4)
        outputs.append([row.output for row in rows])
    assert outputs[0] == outputs[1]


def test_more_edits_than_a_slot_holds_still_ban_all_tokens(folder, monkeypatch):
    for module in ("slot_tensors", "device_slots"):
        monkeypatch.setattr(f"quire.services.worker.{module}.MAX_EDITS", 40)
    driver = Driver(ModelRunner(folder, "cpu", "float32", threads=1, runner="device", enforce_eager=True))
    row = driver.row(1, prompt(8), bad_token_ids=[id for id in range(VOCAB) if id not in (11, 380)], temperature=5.0)
    driver.run([row], 12)
    assert set(row.output) <= {11, 380}


@pytest.mark.parametrize(
    "plan",
    [
        Plan(1, [], [], b"", b"", b"", int32(0), int32(1), int32(0)),
        Plan(1, [99], [], b"", b"", b"", b"", b"", b""),
        Plan(1, [], [], int32(0), int32(1 << 20), b"", b"", b"", b""),
        Plan(1, [], [], b"", b"", int32(0, 1 << 20), b"", b"", b""),
        Plan(1, [], [], b"", b"", int32(*range(40)), b"", b"", b""),
        Plan(1, [], [], b"", b"", b"", int32(0), int32(1, 1), int32(0)),
    ],
)
def test_a_plan_that_reaches_outside_is_refused(runners, plan):
    Driver(runners["eager"])
    with pytest.raises(PlanError):
        runners["eager"].step(plan)


def test_an_empty_step_and_one_of_copies_alone_are_answered(runners):
    Driver(runners["graphs"])
    assert runners["graphs"].step(Plan(1, [0], [], b"", b"", b"", b"", b"", b"")).token_ids == b""
    assert runners["graphs"].step(Plan(2, [], [], b"", b"", int32(0, 1), b"", b"", b"")).token_ids == b""


def test_the_batch_and_the_graphs_are_in_the_memory_plan(runners):
    parts = [what for what, _ in Driver(runners["graphs"]).ready.memory_plan]
    assert parts == ["weights", "workspace", "batch", "graphs", "kv cache"]
    assert kernels.backend_name("cpu") in Driver(runners["eager"]).ready.backend
