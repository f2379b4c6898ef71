"""Bad words against transformers: greedy output with sequences banned is the reference's, in every way to run it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from checkpoints import FAMILIES
from engine_under_test import ids_bytes
from masked_engine import MaskedEngine
from test_parity import MAX_MODEL_LEN, NUM_NEW, WAYS, Family, greedy
from transformers import NoBadWordsLogitsProcessor

from quire.shared.messages import Masks, Plan, StepResult


class Masking(Family):
    """A family on one kind of runner, whose steps are computed once their masks are there."""

    def __init__(self, name: str, folder: Path, runner: str) -> None:
        super().__init__(name, folder, runner=runner)
        self.prompts_used = self.prompts(31, 6)
        self.free = self._free()
        """Their outputs with nothing banned."""

    def engine(self, runner=None, **settings) -> MaskedEngine:
        plain = super().engine(runner, **settings)
        limits = plain.scheduler.limits
        engine = MaskedEngine(
            self.vocab_size,
            num_blocks=limits.num_blocks,
            block_size=limits.block_size,
            max_num_seqs=limits.max_num_seqs,
            budget=limits.max_num_batched_tokens,
            max_model_len=MAX_MODEL_LEN,
            depth=plain.depth,
            prefix_caching=limits.prefix_caching,
            eos_token_ids=(),
        )
        engine.compute = self.compute
        return engine

    def compute(self, plan: Plan, masks: Masks | None) -> StepResult:
        def waiting(step: int) -> Masks:
            assert masks is not None and step == plan.step
            return masks

        return self.runner.step(plan, waiting)

    def _free(self) -> list[list[int]]:
        engine = self.engine()
        for request_id, prompt in enumerate(self.prompts_used):
            engine.add(greedy(request_id, prompt))
        answers = engine.run()
        return [answers[request_id, 0].token_ids for request_id in range(len(self.prompts_used))]

    def expect_without(self, bad: list[list[int]], prompt: list[int], output: list[int]) -> None:
        """What generate does one token at a time; the prompt's own end begins no sequence of `bad`."""
        process = NoBadWordsLogitsProcessor(bad, torch.tensor([]))
        assert len(output) == NUM_NEW
        for place, scores in enumerate(self.logprobs(prompt, output)):
            scores = process(torch.tensor([prompt + output[:place]]), scores[None])
            assert output[place] == int(scores.argmax()), place


@pytest.fixture(scope="module", params=["host", "device"])
def family(request, tmp_path_factory) -> Masking:
    name = "qwen3" if "qwen3" in FAMILIES else next(iter(FAMILIES))
    return Masking(name, tmp_path_factory.mktemp("checkpoints"), request.param)


def words_of(output: list[int]) -> list[list[int]]:
    """Sequences of one to four tokens that the output has, so that banning them changes it."""
    return [[output[9]], output[3:5], output[14:17], output[20:24], output[40:42]]


@pytest.mark.parametrize("way", ["roomy", "budget of 16, depth 1", "tiny cache"])
def test_greedy_output_without_bad_words_is_transformers(family: Masking, way: str):
    prompts, free = family.prompts_used, family.free
    engine = family.engine(**WAYS[way])
    for request_id, prompt in enumerate(prompts):
        bad = words_of(free[request_id])
        singles = [ids[0] for ids in bad if len(ids) == 1]
        made = greedy(request_id, prompt, bad_token_ids=singles, n=1 + request_id % 2)
        engine.add(msgspec.structs.replace(made, bad_sequences=[ids_bytes(ids) for ids in bad if len(ids) > 1]))
    answers = engine.run(20_000)
    if "tiny" in way:
        assert engine.scheduler.num_preemptions > 0
    for (request_id, _), answer in answers.items():
        assert answer.token_ids != free[request_id]
        family.expect_without(words_of(free[request_id]), prompts[request_id], answer.token_ids)
