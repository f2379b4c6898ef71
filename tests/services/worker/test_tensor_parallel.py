"""Several ranks are one: the tokens of a model alone, the same bytes on each rank, in whatever way steps are cut."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from checkpoints import FAMILIES, make_checkpoint
from plans import BLOCK_SIZE, Driver, floats_of, ids_of
from ranks import Ranks, joined

from quire.services.worker.model_runner import ModelRunner
from quire.services.worker.tensor_parallel import RankGroup
from quire.services.worker.weight_cuts import WeightCuts
from quire.shared import model_files
from quire.shared.model_errors import ModelFilesError
from quire.shared.sharding import part_of, vocab_part

CASES = [(family, 2) for family in FAMILIES] + [
    ("llama 2", 4),
    ("qwen3", 4),  # two key-value heads: each on two ranks
    ("llama with biases", 2),
    ("qwen3 with biases", 4),
]


def prompt(length: int, seed: int) -> list[int]:
    generator = random.Random(seed * 1000 + length)
    return [generator.randrange(3, 380) for _ in range(length)]


def mixed_steps(runner) -> list:
    """Greedy and seeded rows with all that sampling has, cut at random, some computed again; then a fork."""
    generator = random.Random(7)
    driver = Driver(runner, max_num_seqs=8)
    wishes = [
        {},
        {"temperature": 0.9, "top_p": 0.95, "logprobs": 3},
        {"temperature": 0.8, "top_k": 20, "frequency_penalty": 0.4},
        {"prompt_logprobs": 2},
        {"temperature": 1.0, "min_p": 0.01, "logit_bias": {5: 2.0}},
    ]
    rows = [driver.row(slot, prompt(generator.randint(1, 40), slot), slot, **wish) for slot, wish in enumerate(wishes)]
    while unfinished := [row for row in rows if len(row.output) < 8]:
        parts = []
        for row in unfinished:
            fate = generator.random()
            if fate < 0.05 and not row.is_new and not row.params.prompt_logprobs:
                driver.preempt(row)
            elif fate > 0.3:
                parts.append((row, generator.randint(1, row.num_missing)))
        if parts:
            driver.step(parts)
    first = driver.row(5, prompt(4 * BLOCK_SIZE + 2, 5))
    driver.step([(first, first.num_missing)])
    other = driver.row(6, first.ids[: first.num_prompt], seed=3, temperature=1.0)
    other.blocks = first.blocks[:4] + driver.take_blocks(1)
    other.num_computed = first.num_prompt - 1
    driver.step([(first, 1), (other, 1)], [(first.blocks[4], other.blocks[4])])
    driver.run([first, other], 6)
    return [*rows, first, other]


@pytest.mark.parametrize(("family", "size"), CASES, ids=lambda value: str(value))
def test_ranks_give_the_tokens_of_one(family: str, size: int, tmp_path: Path) -> None:
    # A vocabulary that no number of ranks divides.
    folder = make_checkpoint(family, tmp_path, vocab_size=389)
    alone = mixed_steps(ModelRunner(folder, "cpu", "float32", threads=1))
    ranks = Ranks(folder, size)
    together = mixed_steps(ranks)
    ranks.close()
    for one, other in zip(alone, together, strict=True):
        assert one.ids == other.ids
        for ours, theirs in zip(
            one.logprobs + one.prompt_logprobs, other.logprobs + other.prompt_logprobs, strict=True
        ):
            assert ids_of(ours.top_ids) == ids_of(theirs.top_ids)
            np.testing.assert_allclose(floats_of(ours.logprobs), floats_of(theirs.logprobs), atol=1e-4)
            np.testing.assert_allclose(floats_of(ours.top_logprobs), floats_of(theirs.top_logprobs), atol=1e-4)


ARITHMETICS = (
    {"dtype": "bfloat16"},
    {"quantization": "int8"},
    {"linear": "plain"},
    {"quantization": "fp8", "kv_cache_dtype": "fp8"},
    {"runner": "device"},
)


@pytest.mark.parametrize("settings", ARITHMETICS, ids=str)
def test_ranks_agree_in_every_arithmetic(settings: dict[str, str], tmp_path: Path) -> None:
    """Rounding may give other tokens than one rank's, but every rank draws the same (which Ranks checks)."""
    ranks = Ranks(make_checkpoint("qwen3", tmp_path), 2, **settings)
    rows = mixed_steps(ranks)
    ranks.close()
    assert all(len(row.output) >= 6 and not row.num_failures for row in rows)


def test_a_rank_holds_its_part_of_the_weights_and_of_the_cache(tmp_path: Path) -> None:
    folder = make_checkpoint("llama 2", tmp_path)
    alone = ModelRunner(folder, "cpu", "float32", threads=1)
    ranks = Ranks(folder, 2)
    ranks.close()
    assert sum(one.weight_bytes for one in ranks.runners) < 1.01 * alone.weight_bytes
    assert ranks.config.num_key_value_heads == alone.config.num_key_value_heads // 2
    assert ranks.config.vocab_size == alone.config.vocab_size


def test_ranks_take_as_many_blocks_as_the_poorest_has_room_for(tmp_path: Path, monkeypatch) -> None:
    from quire.services.worker import model_runner

    ranks = Ranks(make_checkpoint("qwen2", tmp_path), 2)
    plan_memory, limits = model_runner.plan_memory, iter([200, 100])
    monkeypatch.setattr(
        model_runner, "plan_memory", lambda *given: plan_memory(*given).with_blocks(next(limits), BLOCK_SIZE)
    )
    driver = Driver(ranks)  # it asserts that all say the same
    ranks.close()
    assert driver.ready.num_blocks == 100
    assert dict(driver.ready.memory_plan)["kv cache"] == 100 * BLOCK_SIZE * 2 * 3 * 1 * 16 * 4


def test_collectives_of_three_ranks() -> None:
    with ThreadPoolExecutor(3) as pool:
        groups = joined(3, pool)

        def calls(rank: int):
            group = groups[rank]
            summed = group.all_reduce(torch.full((2, 5), float(rank + 1)))
            columns = torch.arange(8).view(2, 4) + 100 * rank
            return summed, group.gather_columns(columns, 11), group.smallest(7 - rank, torch.device("cpu"))

        for summed, gathered, least in pool.map(calls, range(3)):
            assert (summed == 6).all() and least == 5
            assert gathered.tolist() == [
                [0, 1, 2, 3, 100, 101, 102, 103, 200, 201, 202],
                [4, 5, 6, 7, 104, 105, 106, 107, 204, 205, 206],
            ]


def test_a_rank_that_only_pads_the_vocabulary() -> None:
    groups = [RankGroup(rank, 4) for rank in range(4)]
    assert vocab_part(20, 4) == 16
    assert [group.vocab_rows(20) for group in groups] == [(0, 16), (16, 20), (20, 20), (20, 20)]


@pytest.mark.parametrize(
    ("family", "size", "sentence"),
    [
        ("llama 2", 3, "--tensor-parallel-size 3 does not divide the model's num_attention_heads 4; possible: 2, 4"),
        ("llama 2", 8, "num_attention_heads 4"),
    ],
)
def test_what_cannot_be_divided_is_refused(family: str, size: int, sentence: str, tmp_path: Path) -> None:
    config = model_files.read_model_config(make_checkpoint(family, tmp_path))
    with pytest.raises(ModelFilesError, match=sentence):
        part_of(config, size)


def test_key_value_heads_that_neither_divide_nor_are_divided_are_refused(tmp_path: Path) -> None:
    changes = {"num_attention_heads": 12, "num_key_value_heads": 6, "hidden_size": 96}
    config = model_files.read_model_config(make_checkpoint("llama 2", tmp_path, config=changes))
    with pytest.raises(ModelFilesError, match="6 key-value heads: one must divide the other"):
        part_of(config, 4)


def test_a_tensor_of_another_size_is_refused_whatever_part_of_it_is_wanted(tmp_path: Path) -> None:
    folder = make_checkpoint("llama 2", tmp_path)
    config = model_files.read_model_config(folder)
    entries = model_files.read_weight_entries(folder)
    cuts = WeightCuts(config, RankGroup(0, 2))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert cuts.rows(entries)[name].shape == (32, 64)
    wider = {name: msgspec.structs.replace(entries[name], shape=(66, 64))}
    with pytest.raises(ModelFilesError, match="66 rows; the model's has 64"):
        cuts.rows(wider)
