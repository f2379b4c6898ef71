"""Tests that constrained tokens are a direct reference's, on both runners, however the engine drives them.

The reference: the whole text through transformers for every token, and llguidance's own mask of the tokens so far.
Masks are made when they are waited for: the results before are committed then, as in a server.
"""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import load_reference
from engine_under_test import PEER, EngineUnderTest, submit
from guided_engine import EOS, VOCAB_SIZE, constrained, guides_of, table

from quire.services.engine.masks import MaskBuilder
from quire.services.worker.model_runner import ModelRunner
from quire.shared.messages import Configure, Constraint, Masks, Plan, StepResult, Submit
from quire.shared.model_files import DEMO_MODEL

BLOCK_SIZE, MAX_MODEL_LEN = 16, 128
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 9},
        "tags": {"type": "array", "items": {"enum": ["a", "bc"]}},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
CONSTRAINTS = [
    Constraint("json", json.dumps(SCHEMA), "structured_outputs"),
    Constraint("regex", "[a-f]{5,30}[0-9]+!", "structured_outputs"),
    None,
]
WAYS: dict[str, dict[str, Any]] = {
    "one at a time": {"depth": 1},
    "a step ahead": {"depth": 2},
    "in chunks": {"budget": 16},
    "preempted": {"num_blocks": 10},
    "preempted, one at a time": {"num_blocks": 10, "depth": 1},
}
RUNNERS = {
    "host": {"runner": "host"},
    "device": {"runner": "device"},
    "eager": {"runner": "device", "enforce_eager": True},
}


class EngineOnRunner(EngineUnderTest):
    """On a runner of the demo model."""

    def __init__(self, runner: ModelRunner, **settings: Any) -> None:
        sizes = {"num_blocks": 256, "max_num_seqs": 8, "budget": 256, **settings}
        config = runner.config
        token_bytes = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4
        memory = sizes["num_blocks"] * BLOCK_SIZE * token_bytes
        runner.configure(Configure(sizes["max_num_seqs"], sizes["budget"], MAX_MODEL_LEN, BLOCK_SIZE, memory, 0.9))
        super().__init__(block_size=BLOCK_SIZE, max_model_len=MAX_MODEL_LEN, eos_token_ids=(EOS,), **sizes)
        self.runner = runner
        self.builder = MaskBuilder(VOCAB_SIZE)
        self.collected: deque[StepResult] = deque()
        self.submit = self.hand_on

    def add(self, request: Submit) -> Any:
        return self.scheduler.add(PEER, request, self.now, guides_of(request))

    def hand_on(self, plan: Plan) -> Any:
        self.runner.submit(plan, self.masks)
        return self.result

    def result(self) -> StepResult:
        while not self.collected:
            self.collected += self.runner.collect()
        return self.collected.popleft()

    def masks(self, number: int) -> Masks:
        while self.in_flight:
            step, result_of = self.in_flight.popleft()
            self.committer.commit(step, result_of(), self.now)
        masks, failed = self.builder.build(number, self.steps[-1])
        assert not failed
        return masks


@pytest.fixture(scope="module", params=RUNNERS)
def runner(request) -> ModelRunner:
    return ModelRunner(DEMO_MODEL, "cpu", "float32", threads=1, **RUNNERS[request.param])


def requests(temperature: float) -> list[Submit]:
    made = []
    for number in range(9):
        request = submit(number, range(40, 60 + 5 * number), 24, seed=number, temperature=temperature)
        constraint = CONSTRAINTS[number % 3]
        made.append(request if constraint is None else constrained(request, constraint))
    return made


def run(runner: ModelRunner, temperature: float, **settings: Any) -> list[list[int]]:
    engine = EngineOnRunner(runner, **settings)
    for request in requests(temperature):
        engine.add(request)
    answers = engine.run()
    if "num_blocks" in settings:
        assert engine.scheduler.num_preemptions > 0
    return [answers[number, 0].token_ids for number in range(9)]


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    """Greedy."""
    reference = load_reference(DEMO_MODEL)
    found = []
    for request in requests(0.0):
        prompt = list(memoryview(request.prompt_ids).cast("i"))
        grammar = request.grammar
        matcher = None if grammar is None else table().compiled(grammar).deep_copy()
        output: list[int] = []
        while len(output) < 24 and EOS not in output and not (matcher and matcher.is_stopped()):
            with torch.inference_mode():
                logits = reference(torch.tensor([prompt + output])).logits[0, -1].float()
            if matcher is not None:
                bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
                is_allowed = torch.from_numpy(np.unpackbits(bits, bitorder="little")[:VOCAB_SIZE] != 0)
                logits = logits.masked_fill(~is_allowed, -torch.inf)
            output.append(int(logits.argmax()))
            if matcher is not None:
                matcher.consume_token(output[-1])
        found.append(output)
    return found


@pytest.mark.parametrize("way", WAYS)
def test_greedy_constrained_tokens_are_the_references(runner: ModelRunner, expected: list[list[int]], way: str):
    assert run(runner, 0.0, **WAYS[way]) == expected


def test_drawn_constrained_tokens_are_the_same_ahead_and_preempted(runner: ModelRunner):
    alone = run(runner, 1.0, **WAYS["one at a time"])
    assert len(set(map(tuple, alone))) == 9
    for way in ("a step ahead", "preempted"):
        assert run(runner, 1.0, **WAYS[way]) == alone, way
