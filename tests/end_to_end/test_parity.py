"""Tests that greedy output is transformers', token for token, however the engine runs it.

The engine's scheduler and committer drive the real model runner in this process. A sequence is checked
by one forward of the reference over prompt + output: each output token must be the likeliest after all
before it, which is what `generate` does one token at a time (done literally for one prompt a family).
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from checkpoints import FAMILIES, load_reference, make_checkpoint
from engine_under_test import EngineUnderTest, submit

from quire.services.worker.debugging import Debugging
from quire.services.worker.model_runner import ModelRunner
from quire.shared.messages import Configure

NUM_NEW = 64
BLOCK_SIZE = 16
MAX_MODEL_LEN = 256
WAYS = {
    "roomy": {},
    "depth 1": {"depth": 1},
    "budget of 16": {"budget": 16},
    "budget of 16, depth 1": {"budget": 16, "depth": 1},
    "tiny cache": {"num_blocks": 40},
    "tiny cache, depth 1, no prefix cache": {"num_blocks": 40, "depth": 1, "prefix_caching": False},
    "three rows": {"max_num_seqs": 3},
}


class Family:
    """A random checkpoint, our runner of it, and the reference."""

    def __init__(self, name: str, folder: Path, device: str = "cpu", **of_runner) -> None:
        self.folder = make_checkpoint(name, folder / name.replace(" ", "-"))
        self.runner = ModelRunner(self.folder, device, "float32", threads=1, **of_runner)
        settings = {"threads": 1, "debugging": Debugging(poisons_blocks=True), **of_runner}
        self.poisoned = ModelRunner(self.folder, device, "float32", **settings)
        self.reference = load_reference(self.folder)
        self.vocab_size = self.runner.config.vocab_size

    def engine(self, runner: ModelRunner | None = None, **settings) -> EngineUnderTest:
        sizes = {"num_blocks": 512, "max_num_seqs": 32, "budget": 512, **settings}
        runner = runner or self.runner
        runner.configure(
            Configure(
                max_num_seqs=sizes["max_num_seqs"],
                max_num_batched_tokens=sizes["budget"],
                max_model_len=MAX_MODEL_LEN,
                block_size=BLOCK_SIZE,
                kv_cache_memory_bytes=sizes["num_blocks"] * BLOCK_SIZE * self.kv_bytes_per_token,
                memory_utilization=0.9,
            )
        )
        assert runner.limits.num_blocks >= sizes["num_blocks"]
        return EngineUnderTest(
            block_size=BLOCK_SIZE, max_model_len=MAX_MODEL_LEN, apply=runner.step, eos_token_ids=(), **sizes
        )

    @property
    def kv_bytes_per_token(self) -> int:
        config = self.runner.config
        return 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 4

    def prompts(self, seed: int, count: int) -> list[list[int]]:
        generator = random.Random(seed)
        return [
            [generator.randrange(3, self.vocab_size) for _ in range(generator.randrange(1, 120))] for _ in range(count)
        ]

    @torch.inference_mode()
    def logprobs(self, prompt: list[int], output: list[int]) -> torch.Tensor:
        """[len(output), V]: the reference's, at each output token."""
        logits = self.reference(torch.tensor([prompt + output[:-1]])).logits[0, len(prompt) - 1 :]
        return torch.log_softmax(logits.float(), dim=-1)

    def expect_greedy(self, prompt: list[int], output: list[int]) -> None:
        assert len(output) == NUM_NEW
        assert output == self.logprobs(prompt, output).argmax(dim=-1).tolist()


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory) -> Family:
    return Family(request.param, tmp_path_factory.mktemp("checkpoints"))


def greedy(request_id: int, prompt: list[int], **fields):
    return submit(request_id, prompt, max_tokens=NUM_NEW, temperature=0.0, ignore_eos=True, **fields)


def test_alone_it_is_what_generate_gives(family: Family):
    for seed in range(3):
        (prompt,) = family.prompts(seed, 1)
        with torch.inference_mode():
            expected = family.reference.generate(
                torch.tensor([prompt]), max_new_tokens=NUM_NEW, min_new_tokens=NUM_NEW, do_sample=False, pad_token_id=0
            )[0, len(prompt) :].tolist()
        engine = family.engine()
        engine.add(greedy(1, prompt))
        assert engine.run()[1, 0].token_ids == expected


@pytest.mark.parametrize("way", WAYS)
def test_32_mixed_lengths_at_once(family: Family, way: str):
    prompts = family.prompts(17, 32)
    engine = family.engine(**WAYS[way])
    for request_id, prompt in enumerate(prompts):
        engine.add(greedy(request_id, prompt))
    answers = engine.run(20_000)
    if "tiny" in way:
        assert engine.scheduler.num_preemptions > 0
    for request_id, prompt in enumerate(prompts):
        family.expect_greedy(prompt, answers[request_id, 0].token_ids)


@pytest.mark.parametrize("depth", [1, 2])
def test_prefix_hits(family: Family, depth: int):
    shared = family.prompts(5, 1)[0][:50] + [7] * 30
    tails = [tail[:9] for tail in family.prompts(6, 8)]
    engine = family.engine(depth=depth)
    for request_id, tail in enumerate(tails):
        engine.add(greedy(request_id, shared + tail))
    answers = engine.run()
    engine.add(greedy(100, shared + tails[0]))
    answers = engine.run()
    assert answers[100, 0].started[0].num_cached_tokens >= len(shared) - BLOCK_SIZE
    assert answers[100, 0].token_ids == answers[0, 0].token_ids
    for request_id, tail in enumerate(tails):
        family.expect_greedy(shared + tail, answers[request_id, 0].token_ids)


@pytest.mark.parametrize("depth", [1, 2])
def test_four_choices_share_a_prompt(family: Family, depth: int):
    for length in (31, 32, 33):
        prompt = (family.prompts(9, 1)[0] + [5] * 40)[:length]
        engine = family.engine(depth=depth, budget=16)
        engine.add(greedy(1, prompt, n=4))
        answers = engine.run()
        for index in range(4):
            family.expect_greedy(prompt, answers[1, index].token_ids)


def test_drawn_tokens_are_the_same_however_they_are_run(family: Family):
    """Seeded sampling with penalties, stop ids and forks, in each way, against the roomy one."""
    prompts = family.prompts(23, 12)

    def run(**settings) -> dict:
        engine = family.engine(**settings)
        for request_id, prompt in enumerate(prompts):
            sampling = {"temperature": 0.8, "top_p": 0.95, "frequency_penalty": 0.4, "repetition_penalty": 1.1}
            stops = [request_id + 3, request_id + 40]
            engine.add(submit(request_id, prompt, 40, n=2, seed=request_id, stop_token_ids=stops, **sampling))
        return {key: answer.token_ids for key, answer in engine.run(20_000).items()}

    expected = run(depth=1)
    assert len({tuple(tokens) for tokens in expected.values()}) > 12
    for settings in ({"depth": 2}, {"budget": 16}, {"num_blocks": 40}, {"max_num_seqs": 3}):
        assert run(**settings) == expected, settings


@pytest.mark.parametrize("way", ["budget of 16", "tiny cache"])
def test_what_is_in_a_block_before_it_is_written_changes_nothing(family: Family, way: str):
    """Full of NaN until they are written: prefix hits, forks, preemption and chunks give the same tokens."""
    prompts = family.prompts(29, 5)
    shared = prompts[0][:40] + [7] * 20

    def run(runner: ModelRunner) -> dict:
        engine = family.engine(runner, **WAYS[way])
        for request_id, prompt in enumerate(prompts):
            engine.add(submit(request_id, shared + prompt[:9], 24, n=2, seed=request_id, temperature=0.8))
            engine.add(greedy(100 + request_id, prompt))
        answers = engine.run(20_000)
        assert not any(end.reason == "error" for answer in answers.values() for end in answer.finished)
        return {key: answer.token_ids for key, answer in answers.items()}

    assert run(family.poisoned) == run(family.runner)


def test_a_poisoned_cache_is_full_of_nan_until_it_is_written(family: Family):
    engine = family.engine(family.poisoned)
    cache = family.poisoned._kv_cache
    assert cache is not None and cache.keys.isnan().all() and cache.values.isnan().all()
    engine.add(submit(1, family.prompts(3, 1)[0][:20], max_tokens=4, temperature=0.0, ignore_eos=True))
    engine.run()
    written = (~cache.keys[0].isnan()).any(dim=(1, 2, 3)).nonzero().flatten().tolist()
    assert len(written) == 2, "of 20 prompt tokens and 3 more"


def test_logprobs_are_the_references(family: Family):
    (prompt,) = family.prompts(3, 1)
    engine = family.engine(budget=32)
    engine.add(greedy(1, prompt, logprobs=5, prompt_logprobs=3))
    answer = engine.run()[1, 0]
    expected = family.logprobs(prompt, answer.token_ids)
    for place, entry in enumerate(answer.logprobs):
        ours = torch.frombuffer(bytearray(entry.top_logprobs), dtype=torch.float32)
        ids = torch.frombuffer(bytearray(entry.top_ids), dtype=torch.int32)
        values, places = expected[place].topk(5)
        torch.testing.assert_close(ours, values, atol=1e-4, rtol=0)
        assert ids.tolist() == places.tolist()
        own = torch.frombuffer(bytearray(entry.logprobs), dtype=torch.float32)
        torch.testing.assert_close(own[0], expected[place, answer.token_ids[place]], atol=1e-4, rtol=0)
    (scored,) = answer.prompt_logprobs
    with torch.inference_mode():
        of_prompt = torch.log_softmax(family.reference(torch.tensor([prompt])).logits[0, :-1].float(), dim=-1)
    ours = torch.frombuffer(bytearray(scored.logprobs), dtype=torch.float32)
    torch.testing.assert_close(ours, of_prompt.gather(1, torch.tensor(prompt[1:])[:, None])[:, 0], atol=1e-4, rtol=0)
