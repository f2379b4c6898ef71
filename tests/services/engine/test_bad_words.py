"""Bad words of several tokens: their last one never follows the others, however a choice is run."""

from __future__ import annotations

import json

import msgspec
import pytest
from engine_under_test import ids_bytes, submit
from guided_engine import GuidedEngine, constrained, tokenizer

from quire.services.engine.bad_words import BadWords
from quire.services.engine.submission import refusal
from quire.shared.messages import Constraint, History

POOL = list(range(100, 104))
"""Few tokens, so that every sequence comes up."""
BAD = [[100, 101], [101, 102, 103], [102, 102, 102, 100], [103, 100]]


def request(number: int, bad: list[list[int]] = BAD, length: int = 60, n: int = 1, **fields):
    fields = {"temperature": 1.0, "allowed_token_ids": POOL, **fields}
    made = submit(number, range(20, 30 + number), length, n=n, seed=number, **fields)
    return msgspec.structs.replace(made, bad_sequences=[ids_bytes(ids) for ids in bad])


def run(*requests, **settings) -> dict:
    engine = GuidedEngine(**settings)
    for each in requests:
        engine.add(each)
    return results(engine)


def results(engine: GuidedEngine) -> dict:
    ends = {key: msgspec.structs.replace(answer.finished[0], row=0) for key, answer in engine.run(8000).items()}
    return {key: (engine.answers[key].token_ids, end) for key, end in ends.items()}


def holds(ids: list[int], sequence: list[int]) -> bool:
    return any(ids[at : at + len(sequence)] == sequence for at in range(len(ids)))


REQUESTS = [request(number, n=1 + number % 3) for number in range(6)]


def test_no_sequence_is_put_out_and_all_of_them_would_have_been():
    answers, free = run(*REQUESTS), run(*(request(number, [], n=1 + number % 3) for number in range(6)))
    assert all(any(holds(ids, sequence) for ids, _ in free.values()) for sequence in BAD)
    for ids, end in answers.values():
        assert len(ids) == 60 and end.reason == "length"
        assert not any(holds(ids, sequence) for sequence in BAD)
        assert holds(ids, [102, 102]) or 102 not in ids, "beginnings of sequences may be put out"


def test_one_step_ahead_preempted_and_batched_give_the_tokens_of_one_at_a_time():
    alone = {}
    for each in REQUESTS:
        alone |= run(each, depth=1, prefix_caching=False)
    assert run(*REQUESTS, depth=1) == alone
    assert run(*REQUESTS, depth=2) == alone
    tight = GuidedEngine(num_blocks=34, max_num_seqs=6, depth=2, max_model_len=128)
    for each in REQUESTS:
        tight.add(each)
    assert results(tight) == alone
    assert tight.scheduler.num_preemptions > 0


def test_a_resumed_choice_goes_on_from_any_token():
    ((whole, _),) = run(request(1)).values()
    for count in range(len(whole)):
        history = [History(ids_bytes(whole[:count]), 0)]
        ((resumed, _),) = run(msgspec.structs.replace(request(1), history=history)).values()
        assert resumed == whole[count:]


def test_what_the_prompt_ends_with_is_no_beginning_of_a_word():
    allowed = {"allowed_token_ids": [101]}
    made = request(1, [[29, 101], [29, 101, 101]], 8, **allowed)
    ((ids, end),) = run(msgspec.structs.replace(made, prompt_ids=ids_bytes(range(20, 30)))).values()
    assert (ids, end.reason) == ([101] * 8, "length")


def test_beside_a_grammar_both_are_kept():
    """The words of the digits' own tokens: no two sevens in a row, and no nine at all."""
    seven, nine = (ids[0] for ids in tokenizer().encode_texts(["7", "9"], False))
    made = constrained(
        submit(1, range(20, 30), 200, seed=1, n=3, temperature=1.0, bad_token_ids=[nine], logprobs=None),
        Constraint("regex", "([789]){12}"),
    )
    made = msgspec.structs.replace(made, bad_sequences=[ids_bytes([seven, seven])])
    for ids, end in run(made).values():
        assert end.reason == "stop", end.message
        assert nine not in ids and not holds(ids, [seven, seven])


@pytest.mark.parametrize("is_single", [True, False])
def test_a_grammar_that_only_a_bad_word_could_follow_ends_its_choice_with_a_sentence(is_single: bool):
    (ids,) = tokenizer().encode_texts(["日"], False)
    assert len(ids) == 3, "a character that has no other tokens than its bytes"
    bad = {"bad_token_ids": [ids[1]]} if is_single else {}
    made = constrained(submit(1, range(20, 30), 50, seed=1, **bad), Constraint("choice", json.dumps(["日"])))
    made = msgspec.structs.replace(made, bad_sequences=[] if is_single else [ids_bytes(ids[:2])])
    answers = run(made, request(2))
    begun, end = answers[1, 0]
    assert (begun, end.reason) == (ids[:1], "error")
    assert "bad_words leave no token" in end.message
    assert answers[2, 0][1].reason == "length", "others go on"


def test_where_no_allowed_token_is_left_the_choice_ends_with_a_sentence():
    ((ids, end),) = run(request(1, [[101, 101]], allowed_token_ids=[101])).values()
    assert (ids, end.reason) == ([101], "error")
    assert "bad_words leave no token" in end.message


def test_a_step_awaits_masks_only_for_sequences_and_beside_a_grammar():
    assert BadWords.of(submit(1, [1], bad_token_ids=[7])) is None
    assert BadWords.of(request(1)) is not None
    guided = constrained(submit(1, [1], bad_token_ids=[7]), Constraint("choice", '["a"]'))
    assert BadWords.of(guided) is not None
    assert BadWords.of(msgspec.structs.replace(guided, sampling=submit(1, [1]).sampling)) is None


@pytest.mark.parametrize("sequence", [[5], [5, 500], [-1, 5]])
def test_sequences_that_could_hurt_the_masks_are_refused(sequence: list[int]):
    scheduler = GuidedEngine().scheduler
    refused = refusal(request(1, [sequence], allowed_token_ids=[5]), scheduler, vocab_size=500, max_open_choices=9)
    assert refused is not None and refused.status == 400
    assert refusal(request(1, [[5, 499]], allowed_token_ids=[5]), scheduler, 500, 9) is None
