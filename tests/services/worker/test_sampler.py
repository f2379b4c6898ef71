"""The sampler over slots: each parameter against a plain implementation, and rows independent of each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from quire.services.worker.batch_state import BatchState
from quire.services.worker.philox import philox4x32, uniforms
from quire.services.worker.sampler import Sampled, sample_rows
from quire.services.worker.sampling_state import SamplingState
from quire.services.worker.slot_lengths import Limits
from quire.shared.messages import Masks, NewRow, Plan, SamplingParams, Slot

VOCAB_SIZE = 500
EOS = 7


def make_batch(rows: list[tuple[list[int], int, int, dict[str, Any]]]) -> BatchState:
    """rows: (token ids, prompt tokens, seed, sampling params), one a slot."""
    limits = Limits(len(rows), 1024, 64, 16, 8, VOCAB_SIZE)
    batch = BatchState(limits, SamplingState(len(rows), VOCAB_SIZE, [EOS]))
    new_rows = [
        NewRow(
            Slot(slot), np.array(ids, np.int32).tobytes(), num_prompt, 0, np.array([slot % 8], np.int32).tobytes(),
            SamplingParams(**params), seed,
        )
        for slot, (ids, num_prompt, seed, params) in enumerate(rows)
    ]  # fmt: skip
    batch.apply(Plan(1, [], new_rows, b"", b"", b"", b"", b"", b""))
    return batch


def sample(batch: BatchState, logits: torch.Tensor, slots: list[int] | None = None) -> Sampled:
    chosen = np.arange(len(logits), dtype=np.int32) if slots is None else np.array(slots, np.int32)
    return sample_rows(logits.clone(), chosen, batch)


def one(params: dict[str, Any], logits: torch.Tensor, ids: tuple[int, ...] = (1, 2, 3), num_prompt: int = 3) -> int:
    """The token of one greedy row."""
    batch = make_batch([(list(ids), num_prompt, 0, {"temperature": 0.0, **params})])
    return int(sample(batch, logits[None]).token_ids[0])


def ranked(*token_ids: int) -> torch.Tensor:
    """Logits [V] in which these are the likeliest, in this order, one apart."""
    logits = torch.zeros(VOCAB_SIZE)
    for place, token_id in enumerate(token_ids):
        logits[token_id] = 10.0 - place
    return logits


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_published_words(counter, key, expected):
    """Known answers of Random123, kat_vectors."""
    words = philox4x32(
        tuple(np.array([word], np.uint64) for word in counter),  # type: ignore[arg-type]
        tuple(np.array([word], np.uint64) for word in key),  # type: ignore[arg-type]
    )
    assert tuple(int(word[0]) for word in words) == expected


def test_uniforms_fill_the_unit_interval():
    draws = uniforms(np.full(20_000, 12345, np.uint64), np.arange(20_000))
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, bins=50, range=(0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 85  # chi-square of 49 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(draws[1:], draws[:-1])[0, 1]) < 0.03
    assert len(np.unique(uniforms(np.arange(5000, dtype=np.uint64), np.zeros(5000, np.int64)))) == 5000


def test_greedy_ignores_filters_and_seed():
    assert one({"top_k": 1, "top_p": 0.01, "min_p": 1.0, "seed": 9}, ranked(40, 41)) == 40


def test_bias_adds():
    assert one({"logit_bias": {41: 1.5, 42: -9.0}}, ranked(40, 41, 42)) == 41
    assert one({"logit_bias": {40: -100.0}}, ranked(40, 41, 42)) == 41


def test_bad_tokens_are_not_drawn():
    assert one({"bad_token_ids": [40, 41]}, ranked(40, 41, 42)) == 42


def test_what_a_mask_forbids_stays_forbidden_where_a_bad_token_is_all_that_is_left():
    batch = make_batch([([1, 2, 3], 3, 0, {"temperature": 0.0, "bad_token_ids": [40, 42]})])
    bits = np.zeros(-(-VOCAB_SIZE // 32) * 32, np.uint8)
    bits[42] = 1
    masks = Masks(1, np.zeros(1, np.int32).tobytes(), np.packbits(bits, bitorder="little").tobytes())
    sampled = sample_rows(ranked(40, 41, 42)[None], np.zeros(1, np.int32), batch, masks)
    assert sampled.token_ids.tolist() == [42]


def test_only_allowed_tokens_are_drawn():
    assert one({"allowed_token_ids": [42, 300]}, ranked(40, 41, 42)) == 42
    assert one({"allowed_token_ids": [300]}, ranked(40, 41, 42)) == 300


def test_ids_outside_the_vocabulary_are_left_alone():
    params = {
        "logit_bias": {VOCAB_SIZE: 99.0, -1: 99.0},
        "bad_token_ids": [VOCAB_SIZE + 5],
        "allowed_token_ids": [41, 10**6],
    }
    assert one(params, ranked(40, 41)) == 41


@pytest.mark.parametrize(("num_outputs", "expected"), [(0, 42), (1, 42), (2, EOS)])
def test_ends_wait_for_min_tokens(num_outputs, expected):
    params = {"min_tokens": 2, "stop_token_ids": [41]}
    assert one(params, ranked(EOS, 41, 42), ids=tuple(range(100, 103 + num_outputs))) == expected


def test_ignoring_eos_does_not_suppress_it():
    assert one({"min_tokens": 5, "ignore_eos": True}, ranked(EOS, 41)) == EOS
    assert one({"ignore_eos": True}, ranked(EOS, 41)) == EOS


def test_a_row_all_of_whose_tokens_are_suppressed_still_draws_an_allowed_one():
    params = {"allowed_token_ids": [EOS], "min_tokens": 3}
    assert one(params, ranked(40, 41)) == EOS
    assert one({**params, "temperature": 1.0}, ranked(40, 41)) == EOS


def test_penalties_look_at_the_right_tokens():
    close = ranked(40, 41)
    close[41] = 9.9
    for params in ({"presence_penalty": 0.2}, {"frequency_penalty": 0.2}):
        assert one(params, close, ids=(40, 40, 5), num_prompt=3) == 40
        assert one(params, close, ids=(5, 5, 40), num_prompt=2) == 41
    assert one({"repetition_penalty": 1.1}, close, ids=(40, 5, 5), num_prompt=3) == 41
    assert one({"frequency_penalty": 0.06}, close, ids=(5, 40), num_prompt=1) == 40
    assert one({"frequency_penalty": 0.06}, close, ids=(5, 40, 40), num_prompt=1) == 41
    assert one({"presence_penalty": 0.06}, close, ids=(5, 40, 40), num_prompt=1) == 40


def test_rows_with_penalties_leave_the_others_alone():
    logits = torch.stack([ranked(40, 41)] * 3)
    penalty = {"temperature": 0.0, "presence_penalty": 2.0}
    batch = make_batch([([1, 40], 1, 0, {"temperature": 0.0}), ([1, 40], 1, 0, penalty), ([1, 41], 1, 0, penalty)])
    assert sample(batch, logits).token_ids.tolist() == [40, 41, 40]


def test_sampled_tokens_follow_the_softmax():
    """Over 20,000 seeds, chi-square against the exact distribution."""
    torch.manual_seed(0)
    logits = torch.randn(VOCAB_SIZE) * 2
    count, temperature = 20_000, 0.8
    batch = make_batch([([1], 1, seed, {"temperature": temperature}) for seed in range(count)])
    drawn = sample(batch, logits.expand(count, -1)).token_ids
    expected = torch.softmax(logits.double() / temperature, dim=0).numpy() * count
    order = np.argsort(-expected)
    likely = order[expected[order] >= 20]
    observed = np.bincount(drawn, minlength=VOCAB_SIZE)
    cells = np.append(observed[likely], count - observed[likely].sum())
    means = np.append(expected[likely], count - expected[likely].sum())
    degrees = len(cells) - 1
    assert ((cells - means) ** 2 / means).sum() < degrees + 4 * np.sqrt(2 * degrees)


def mixed_rows() -> list[tuple[list[int], int, int, dict[str, Any]]]:
    kinds: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"temperature": 1.5, "top_p": 0.9},
        {"top_k": 30, "presence_penalty": 1.0},
        {"min_p": 0.02, "logit_bias": {3: 5.0}},
        {"temperature": 2.0, "allowed_token_ids": list(range(100, 400))},
        {"temperature": 0.7, "repetition_penalty": 1.3, "bad_token_ids": [9]},
        {"temperature": 1.2, "min_tokens": 9, "stop_token_ids": [8], "logprobs": 3},
    ]
    return [([slot % 7 + 1, 5, slot % 11, 5], 2, slot, kinds[slot % len(kinds)]) for slot in range(48)]


def test_a_row_draws_the_same_alone_and_in_any_company():
    torch.manual_seed(1)
    logits = torch.randn(48, VOCAB_SIZE) * 2
    batch = make_batch(mixed_rows())
    together = sample(batch, logits).token_ids
    for slot in range(48):
        assert sample(batch, logits[slot : slot + 1], [slot]).token_ids[0] == together[slot]
    backwards = list(range(47, -1, -1))
    assert sample(batch, logits[backwards], backwards).token_ids.tolist() == together[::-1].tolist()


def test_draws_depend_on_seed_and_output_position_alone():
    logits = torch.zeros(1, VOCAB_SIZE)

    def drawn(num_prompt: int, num_outputs: int, seed: int) -> int:
        batch = make_batch([([1] * (num_prompt + num_outputs), num_prompt, seed, {})])
        return int(sample(batch, logits).token_ids[0])

    assert drawn(3, 2, 5) == drawn(9, 2, 5)
    assert len({drawn(3, position, 5) for position in range(20)}) > 15
    assert len({drawn(3, 2, seed) for seed in range(20)}) > 15
    assert drawn(3, 2, (1 << 63) + 5) != drawn(3, 2, 5)


def test_logprobs_are_raw_and_only_for_those_who_ask():
    torch.manual_seed(2)
    logits = torch.randn(3, VOCAB_SIZE)
    params = {"temperature": 0.5, "logit_bias": {4: 60.0}, "repetition_penalty": 1.5}
    batch = make_batch([([1], 1, 0, params), ([1], 1, 1, {**params, "logprobs": 2}), ([1], 1, 2, {"logprobs": 0})])
    result = sample(batch, logits)
    expected = torch.log_softmax(logits, dim=-1)
    assert [entry.row for entry in result.logprobs] == [1, 2]
    for entry, num_top in zip(result.logprobs, (2, 0), strict=True):
        token = int(result.token_ids[entry.row])
        chosen = np.frombuffer(entry.logprobs, np.float32)
        assert chosen == pytest.approx([float(expected[entry.row, token])], abs=1e-5)
        top = expected[entry.row].topk(num_top)
        assert np.frombuffer(entry.top_ids, np.int32).tolist() == top.indices.tolist()
        assert np.frombuffer(entry.top_logprobs, np.float32) == pytest.approx(top.values.numpy(), abs=1e-5)
    assert int(result.token_ids[1]) == 4


def test_a_row_of_nan_fails_and_hurts_nobody():
    logits = torch.stack([ranked(40), torch.full((VOCAB_SIZE,), torch.nan), ranked(41), ranked(42)])
    logits[3, 8] = torch.inf
    batch = make_batch([([1], 1, 0, {"temperature": t, "logprobs": 1}) for t in (0.0, 1.0, 0.0, 0.5)])
    result = sample(batch, logits)
    assert result.failed_rows == [1, 3]
    assert result.token_ids[[0, 2]].tolist() == [40, 41]
    assert all(0 <= token < VOCAB_SIZE for token in result.token_ids.tolist())
