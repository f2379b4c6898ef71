"""Beam search against transformers', over a table of next-token probabilities that both read."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import CausalLMOutput

from quire.shared.beam_search import Beam, BeamSearch, BeamTrails

VOCAB = 12
EOS = [3, 7]


class Config(PretrainedConfig):
    model_type = "table"
    vocab_size = VOCAB
    num_hidden_layers = 0


class Table(PreTrainedModel, GenerationMixin):
    """The next token depends on the last two, by a random table of logits."""

    config_class = Config
    main_input_name = "input_ids"

    def __init__(self, seed: int) -> None:
        super().__init__(Config())
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.nn.Parameter(2 * torch.randn(VOCAB, VOCAB, VOCAB, generator=generator))

    def forward(self, input_ids: torch.Tensor, **_: object) -> CausalLMOutput:
        padded = torch.cat([input_ids[:, :1], input_ids], 1)
        return CausalLMOutput(logits=self.logits[padded[:, :-1], padded[:, 1:]])


def ours(table: Table, prompt: list[int], search: BeamSearch) -> list[Beam]:
    while search.running:
        found = []
        for beam in search.running:
            ids = torch.tensor([[*prompt, *beam.token_ids]])
            logprobs = torch.log_softmax(table(ids).logits[0, -1], -1)
            values, token_ids = logprobs.topk(min(VOCAB, search.num_candidates))
            found.append(list(zip(token_ids.tolist(), values.tolist(), strict=True)))
        search.step(found)
    return search.best


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
@torch.inference_mode()
def test_trails_hold_what_came_with_each_token_of_a_beam(length_penalty: float) -> None:
    table, prompt = Table(3), [1, 2]
    search, trails = BeamSearch(4, 9, EOS, length_penalty), BeamTrails()
    while search.running:
        ids = [[*prompt, *beam.token_ids] for beam in search.running]
        found = [torch.log_softmax(table(torch.tensor([one])).logits[0, -1], -1).tolist() for one in ids]
        trails.note(search.running, [dict(enumerate(one)) for one in found])
        search.step([sorted(enumerate(one), key=lambda pair: -pair[1]) for one in found])
        trails.keep([*search.running, *search.best])
    assert {len(beam.token_ids) for beam in search.best} != {9}
    for beam in search.best:
        trail = trails.of(beam)
        assert len(trail) == len(beam.token_ids)
        assert sum(trail) / len(trail) ** length_penalty == pytest.approx(beam.score)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("width", "length_penalty", "early_stopping", "eos"),
    [
        (1, 1.0, False, EOS),
        (2, 1.0, False, []),
        *itertools.product((3, 5), (0.0, 1.0, 2.0, -0.5), (False, True, "never"), (EOS[:1], EOS)),
    ],
)
@torch.inference_mode()
def test_it_finds_the_beams_that_transformers_finds(seed, width, length_penalty, early_stopping, eos) -> None:
    table, prompt, most = Table(seed), [1, 2], 9
    wanted = table.generate(
        torch.tensor([prompt]),
        generation_config=GenerationConfig(
            num_beams=width, num_return_sequences=width, max_new_tokens=most, length_penalty=length_penalty,
            early_stopping=early_stopping, eos_token_id=eos or None, pad_token_id=0, do_sample=False,
            return_dict_in_generate=True, output_scores=True, use_cache=False,
        ),
    )  # fmt: skip
    best = ours(table, prompt, BeamSearch(width, most, eos, length_penalty, early_stopping))
    theirs = []
    for ids in wanted.sequences[:, len(prompt) :].tolist():
        ends = [place for place, token_id in enumerate(ids) if token_id in eos]
        theirs.append(tuple(ids[: ends[0] + 1] if ends else ids[:most]))
    assert [beam.token_ids for beam in best] == theirs[: len(best)]
    if width > 1:
        scores = wanted.sequences_scores.tolist()[: len(best)]
        assert [beam.score for beam in best] == pytest.approx(scores, abs=1e-4)
    assert len(best) == width or early_stopping is not False


def test_one_beam_is_greedy_and_the_longest_text_ends_it() -> None:
    search = BeamSearch(1, 2)
    search.step([[(5, -0.1), (4, -3.0)]])
    assert search.running == [Beam((5,), -0.1)]
    search.step([[(6, -0.1), (4, -3.0)]])
    assert search.running == []
    assert [beam.token_ids for beam in search.best] == [(5, 6)]
