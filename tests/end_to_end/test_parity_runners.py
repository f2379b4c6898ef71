"""Tests that both runners give the same tokens however the engine drives them: plans ahead, chunks, preemption, forks.

The device runner takes the place of a GPU's on the CPU; QUIRE_TEST_DEVICE=cuda runs it on one (all families then).
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import FAMILIES
from engine_under_test import Answer, EngineUnderTest, submit
from test_parity import NUM_NEW, WAYS, Family, greedy

from quire.shared.messages import Plan, StepResult

DEVICE = os.environ.get("QUIRE_TEST_DEVICE", "cpu")
RUNNERS = ["device"] if DEVICE == "cuda" else ["host", "device", "device, eager"]

if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("QUIRE_TEST_DEVICE is cuda, but torch sees no GPU", allow_module_level=True)


class OnRunner(Family):
    """A family on a runner of its own, whose answers are collected when they are needed, not when plans are made."""

    def __init__(self, name: str, folder: Path, runner: str) -> None:
        kind, _, rest = runner.partition(", ")
        self._collected: deque[StepResult] = deque()
        super().__init__(name, folder, device=DEVICE, runner=kind, enforce_eager=rest == "eager")

    def engine(self, **settings) -> EngineUnderTest:
        engine = super().engine(**settings)
        engine.submit = self.submit
        return engine

    def submit(self, plan: Plan) -> Callable[[], StepResult]:
        self.runner.submit(plan)

        def result() -> StepResult:
            while not self._collected:
                self._collected += self.runner.collect()
            return self._collected.popleft()

        return result


@pytest.fixture(scope="module", params=RUNNERS)
def runner(request) -> str:
    return request.param


@pytest.fixture(scope="module", params=list(FAMILIES) if DEVICE == "cuda" else ["qwen3"])
def family(request, runner, tmp_path_factory) -> OnRunner:
    return OnRunner(request.param, tmp_path_factory.mktemp("checkpoints"), runner)


@pytest.mark.parametrize("way", WAYS)
def test_greedy_tokens_are_transformers_in_every_way(family: OnRunner, way: str):
    prompts = family.prompts(17, 12)
    engine = family.engine(**WAYS[way])
    for request_id, prompt in enumerate(prompts):
        engine.add(greedy(request_id, prompt))
    answers = engine.run(20_000)
    for request_id, prompt in enumerate(prompts):
        family.expect_greedy(prompt, answers[request_id, 0].token_ids)


def drawn(family: OnRunner, prompts: list[list[int]], **settings) -> dict[tuple[int, int], Answer]:
    """Seeds, penalties, stop ids, edits, forks and logprobs, all at once."""
    engine = family.engine(**settings)
    for request_id, prompt in enumerate(prompts):
        sampling = {"temperature": 0.8, "top_p": 0.95, "frequency_penalty": 0.4, "repetition_penalty": 1.1}
        if request_id % 3 == 1:
            sampling = {"temperature": 1.0, "top_k": 8, "min_p": 0.01, "logit_bias": {5: 3.0}, "logprobs": 2}
        stops = [request_id + 3, request_id + 40]
        engine.add(submit(request_id, prompt, 24, n=2, seed=request_id, stop_token_ids=stops, min_tokens=4, **sampling))
    answers = engine.run(20_000)
    if "num_blocks" in settings:
        assert engine.scheduler.num_preemptions > 0
    return answers


def test_a_plan_ahead_changes_no_token(family: OnRunner):
    prompts = family.prompts(23, 10)
    expected = drawn(family, prompts, depth=1)
    assert len({tuple(answer.token_ids) for answer in expected.values()}) > 10
    for settings in (
        {"depth": 2},
        {"budget": 16},
        {"budget": 16, "depth": 1},
        {"num_blocks": 24},
        {"num_blocks": 24, "depth": 1},
        {"max_num_seqs": 3},
    ):
        answers = drawn(family, prompts, **settings)
        for key, answer in answers.items():
            assert answer.token_ids == expected[key].token_ids, (settings, key)
            assert [entry.top_ids for entry in answer.logprobs] == [entry.top_ids for entry in expected[key].logprobs]


def test_alone_it_is_what_generate_gives(family: OnRunner):
    (prompt,) = family.prompts(1, 1)
    with torch.inference_mode():
        expected = family.reference.generate(
            torch.tensor([prompt]), max_new_tokens=NUM_NEW, min_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0
        )[0, len(prompt) :].tolist()
    engine = family.engine()
    engine.add(greedy(1, prompt))
    assert engine.run()[1, 0].token_ids == expected
