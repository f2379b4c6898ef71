"""The model runner driven by plans, against transformers on the same random checkpoint."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

from checkpoints import FAMILIES, VARIANTS, load_reference, make_checkpoint
from plans import BLOCK_SIZE, Driver, floats_of, ids_of, int32

from quire.services.worker.errors import PlanError
from quire.services.worker.model_runner import ModelRunner
from quire.shared.messages import Configure, Plan
from quire.shared.model_files import DEMO_MODEL

NUM_NEW = 64
MODELS = [*FAMILIES, *VARIANTS]


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = random.Random(seed * 1000 + length)
    return [generator.randrange(384) for _ in range(length)]


class Model:
    """Our runner and the reference, of one checkpoint."""

    def __init__(self, family: str, folder: Path) -> None:
        make_checkpoint(family, folder)
        self.runner = ModelRunner(folder, "cpu", "float32", threads=1)
        self.reference = load_reference(folder)

    @torch.inference_mode()
    def logprobs(self, ids: list[int]) -> torch.Tensor:
        """[len(ids), V], of the token after each."""
        return torch.log_softmax(self.reference(torch.tensor([ids])).logits[0], dim=-1)

    @torch.inference_mode()
    def generated(self, ids: list[int], num_new: int) -> list[int]:
        found = self.reference.generate(torch.tensor([ids]), max_new_tokens=num_new, do_sample=False, pad_token_id=0)
        return found[0, len(ids) :].tolist()

    def is_greedy(self, row) -> bool:
        """Each output is the likeliest after all before it."""
        likeliest = self.logprobs(row.ids)[row.num_prompt - 1 : -1].argmax(dim=-1)
        return row.output == likeliest.tolist()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    made: dict[str, Model] = {}

    def model(family: str) -> Model:
        if family not in made:
            made[family] = Model(family, tmp_path_factory.mktemp("checkpoint"))
        return made[family]

    return model


@pytest.mark.parametrize("family", MODELS)
def test_greedy_tokens_are_those_of_generate(models, family):
    model = models(family)
    for seed in range(3):
        driver = Driver(model.runner)
        row = driver.row(seed, prompt(5 + 13 * seed, seed))
        driver.run([row], NUM_NEW)
        assert row.output == model.generated(row.ids[: row.num_prompt], NUM_NEW)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", FAMILIES)
def test_any_schedule_gives_the_same_tokens(models, family, seed):
    """Rows come, are cut anywhere, wait, are preempted and computed again: the reference's tokens in the end."""
    model, generator = models(family), random.Random(seed)
    driver = Driver(model.runner, max_num_seqs=4)
    rows = [driver.row(slot, prompt(generator.randint(1, 40), slot)) for slot in range(4)]
    while unfinished := [row for row in rows if len(row.output) < 8]:
        parts = []
        for row in unfinished:
            fate = generator.random()
            if fate < 0.1 and not row.is_new:
                driver.preempt(row)
            elif fate > 0.3:
                parts.append((row, generator.randint(1, row.num_missing)))
        if parts:
            driver.step(parts)
    assert all(model.is_greedy(row) for row in rows)


@pytest.mark.parametrize("family", ["llama 3", "mistral"])
def test_forked_rows_share_full_blocks_and_copy_the_last(models, family):
    model = models(family)
    driver = Driver(model.runner)
    first = driver.row(0, prompt(4 * BLOCK_SIZE + 2))
    others = [driver.row(slot, first.ids, seed=slot, temperature=1.0) for slot in (1, 2)]
    driver.step([(first, first.num_missing)])
    shared, tail = first.blocks[:4], first.blocks[4]
    copies = []
    for row in others:
        row.blocks = shared + driver.take_blocks(1)
        row.num_computed = first.num_prompt - 1
        copies.append((tail, row.blocks[4]))
    driver.step([(first, 1), *((row, 1) for row in others)], copies)
    driver.run([first, *others], 20)
    assert model.is_greedy(first)
    for row in others:
        alone = driver.row(5, first.ids[: first.num_prompt], seed=row.slot, temperature=1.0)
        driver.run([alone], 20)
        assert alone.output == row.output
        driver.preempt(alone)
    assert others[0].output != others[1].output


def test_rows_may_read_blocks_that_the_same_step_writes(models):
    model = models("qwen3")
    driver = Driver(model.runner)
    writer = driver.row(0, prompt(3 * BLOCK_SIZE + 1))
    writer.blocks = driver.take_blocks(4)
    reader = driver.row(1, [*writer.ids[: 3 * BLOCK_SIZE], 9, 8, 7])
    reader.blocks, reader.num_computed = writer.blocks[:3] + driver.take_blocks(1), 3 * BLOCK_SIZE
    driver.step([(writer, writer.num_missing), (reader, 3)])
    driver.run([writer, reader], 10)
    assert model.is_greedy(writer)
    assert model.is_greedy(reader)


def test_a_plan_may_come_before_the_last_result_is_known(models):
    """Two plans ahead: the sampled token is already in its slot."""
    model = models("qwen2")
    driver = Driver(model.runner)
    row = driver.row(0, prompt(9))
    row.blocks = driver.take_blocks(12)
    plan = driver.plan([(row, row.num_missing)])
    tokens = ids_of(model.runner.step(plan).token_ids)
    for computed in range(9, 9 + 30):
        columns = (int32(0), int32(1), int32(computed))
        tokens += ids_of(model.runner.step(Plan(computed, [], [], b"", b"", b"", *columns)).token_ids)
    assert tokens == model.generated(row.ids, 31)


def test_a_freed_block_full_of_nan_changes_nothing(models):
    model = models("mistral")
    driver = Driver(model.runner)
    row = driver.row(3, prompt(11))
    driver.step([(row, row.num_missing)])
    cache = model.runner._kv_cache
    used = torch.zeros(driver.ready.num_blocks, dtype=torch.bool)
    used[row.blocks] = True
    with torch.inference_mode():
        for tensor in (cache.keys, cache.values):
            tensor[:, ~used] = torch.nan
            tensor[:, row.blocks[-1], :, 11 % BLOCK_SIZE :] = torch.nan
    driver.run([row], 30)
    assert model.is_greedy(row)


@pytest.mark.parametrize("family", ["llama 2", "qwen3"])
def test_logprobs_are_those_of_the_reference(models, family):
    model = models(family)
    driver = Driver(model.runner)
    row = driver.row(0, prompt(21), temperature=1.0, top_k=5, frequency_penalty=1.0, logit_bias={3: 50.0}, logprobs=4)
    driver.run([driver.row(1, prompt(3)), row], 12)
    expected = model.logprobs(row.ids)[row.num_prompt - 1 : -1]
    for place, entry in enumerate(row.logprobs):
        token = row.output[place]
        assert floats_of(entry.logprobs) == pytest.approx([float(expected[place, token])], abs=1e-4)
        top = expected[place].topk(4)
        assert ids_of(entry.top_ids) == top.indices.tolist()
        assert floats_of(entry.top_logprobs) == pytest.approx(top.values.tolist(), abs=1e-4)
        assert ids_of(entry.ranks) == [int((expected[place] > expected[place, token]).sum()) + 1]


@pytest.mark.parametrize("num_top", [0, 3])
@pytest.mark.parametrize("chunks", [[25], [1, 7, 17], [24, 1]])
def test_prompt_logprobs_come_with_each_chunk(models, monkeypatch, chunks, num_top):
    monkeypatch.setattr("quire.services.worker.logprobs._SLICE_BYTES", 4 * 384 * 5)
    model = models("qwen3")
    driver = Driver(model.runner)
    row = driver.row(2, prompt(25), prompt_logprobs=num_top, max_tokens=0)
    other = driver.row(1, prompt(6))
    for count in chunks:
        driver.step([(row, count), (other, other.num_missing)])
    driver.step([(row, 1)])
    expected = model.logprobs(row.ids[:25])[:-1]
    found = [value for entry in row.prompt_logprobs for value in floats_of(entry.logprobs)]
    assert found == pytest.approx(expected.gather(1, torch.tensor(row.ids[1:25])[:, None])[:, 0].tolist(), abs=1e-4)
    assert [len(floats_of(entry.logprobs)) for entry in row.prompt_logprobs] == [
        size for size in (*chunks[:-1], chunks[-1] - 1) if size
    ]
    top_ids = [token for entry in row.prompt_logprobs for token in ids_of(entry.top_ids)]
    assert top_ids == expected.topk(num_top).indices.flatten().tolist() if num_top else top_ids == []


def test_a_row_whose_logits_are_not_finite_fails_alone(models):
    model = models("llama 2")
    driver = Driver(model.runner)
    sick, healthy = driver.row(0, prompt(6)), driver.row(1, prompt(9))
    driver.step([(sick, 6), (healthy, 9)])
    with torch.inference_mode():
        model.runner._kv_cache.values[:, sick.blocks[0]] = torch.nan
    driver.run([sick, healthy], 6)
    assert sick.num_failures == 5
    assert healthy.num_failures == 0
    assert model.is_greedy(healthy)


def test_a_recycled_slot_keeps_nothing_of_the_row_before(models):
    model = models("llama 2")
    driver = Driver(model.runner)
    first = driver.row(0, prompt(20), allowed_token_ids=[5], min_tokens=9, presence_penalty=2.0, logprobs=2, seed=3)
    driver.run([first], 5)
    assert first.output == [5] * 5
    driver.preempt(first)
    second = driver.row(0, prompt(7))
    driver.run([second], 20)
    assert model.is_greedy(second)
    assert second.logprobs == []


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_checkpoints_of_every_type_and_in_shards_load_alike(tmp_path, dtype):
    whole = make_checkpoint("qwen2", tmp_path / "whole", dtype=dtype)
    shards = make_checkpoint("qwen2", tmp_path / "shards", dtype=dtype, is_sharded=True)
    assert len(list(shards.glob("*.safetensors"))) > 2
    outputs = []
    for folder in (whole, shards):
        driver = Driver(ModelRunner(folder, "cpu", "float32", threads=1))
        row = driver.row(0, prompt(12))
        driver.run([row], 20)
        outputs.append(row.output)
    reference = load_reference(whole).generate(torch.tensor([prompt(12)]), max_new_tokens=20, do_sample=False)
    assert outputs[0] == outputs[1] == reference[0, 12:].tolist()


def test_bfloat16_stays_close_to_float32(tmp_path):
    folder = make_checkpoint("qwen3", tmp_path, dtype="bfloat16")
    found = []
    for dtype in ("float32", "bfloat16"):
        driver = Driver(ModelRunner(folder, "cpu", dtype, threads=1))
        assert driver.ready.dtype == dtype
        row = driver.row(0, prompt(40), prompt_logprobs=0)
        driver.step([(row, 25)])
        driver.step([(row, 15)])
        found.append(np.array([value for entry in row.prompt_logprobs for value in floats_of(entry.logprobs)]))
    assert np.abs(found[0] - found[1]).max() < 0.5
    assert np.abs(found[0] - found[1]).mean() < 0.1


def test_the_demo_model_answers_as_in_transformers():
    driver = Driver(ModelRunner(DEMO_MODEL, "cpu", "float32", threads=1))
    row = driver.row(0, list(range(20, 60)))
    driver.run([row], 32)
    reference = load_reference(DEMO_MODEL).generate(
        torch.tensor([row.ids[:40]]), max_new_tokens=32, do_sample=False, eos_token_id=None
    )
    assert row.output == reference[0, 40:].tolist()


def test_an_empty_step_and_one_of_copies_alone_are_answered(models):
    runner = models("llama 2").runner
    Driver(runner)
    assert runner.step(Plan(1, [0], [], b"", b"", b"", b"", b"", b"")).token_ids == b""
    assert runner.step(Plan(2, [], [], b"", b"", int32(0, 1), b"", b"", b"")).token_ids == b""


@pytest.mark.parametrize(
    "plan",
    [
        Plan(1, [], [], b"", b"", b"", int32(0), int32(1), int32(0)),
        Plan(1, [99], [], b"", b"", b"", b"", b"", b""),
        Plan(1, [], [], int32(0), int32(1 << 20), b"", b"", b"", b""),
        Plan(1, [], [], int32(-1), int32(0), b"", b"", b"", b""),
        Plan(1, [], [], b"", b"", int32(0, 1 << 20), b"", b"", b""),
        Plan(1, [], [], b"", b"", b"", int32(0), int32(1, 1), int32(0)),
    ],
)
def test_a_plan_that_reaches_outside_is_refused(models, plan):
    runner = models("llama 2").runner
    Driver(runner)
    with pytest.raises(PlanError):
        runner.step(plan)


def test_a_plan_before_any_configuration_is_refused(tmp_path):
    runner = ModelRunner(make_checkpoint("llama 2", tmp_path), "cpu", "float32", threads=1)
    with pytest.raises(PlanError, match="before any configuration"):
        runner.step(Plan(1, [], [], b"", b"", b"", b"", b"", b""))


def test_a_second_configuration_starts_afresh(models):
    model = models("qwen2")
    row = Driver(model.runner).row(0, prompt(5))
    first = Driver(model.runner)
    first.run([row], 3)
    second = Driver(model.runner, max_num_seqs=2, max_model_len=40)
    assert second.ready.max_model_len == 40
    again = second.row(0, prompt(5))
    second.run([again], 3)
    assert again.output == row.output
    with pytest.raises(PlanError):
        model.runner.step(Plan(1, [], [], b"", b"", b"", int32(3), int32(1), int32(0)))


def test_what_was_agreed_on_is_reported(models):
    runner = models("llama 2").runner
    ready = runner.configure(Configure(4, 64, None, 16, 1 << 20, 0.9))
    per_token = 2 * 3 * 4 * 16 * 4
    assert ready.num_blocks == (1 << 20) // (16 * per_token)
    assert ready.max_model_len == min(512, ready.num_blocks * 16)
    assert (ready.device, ready.dtype, ready.vocab_size) == ("cpu", "float32", 384)
    assert ready.backend.startswith("torch, linear: ")
    assert dict(ready.memory_plan)["kv cache"] == ready.num_blocks * 16 * per_token
