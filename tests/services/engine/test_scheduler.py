"""Tests of scheduling: whatever the way a request is run, its tokens are those of a request alone."""

from __future__ import annotations

import random

import pytest
from engine_under_test import EOS, EngineUnderTest, alone, ids_bytes, submit
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.shared.messages import History


def prompt(seed: int, length: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(2, 500) for _ in range(length)]


@pytest.mark.parametrize("depth", [1, 2])
def test_mixed_lengths_at_once_equal_each_alone(depth):
    requests = [submit(i, prompt(i, 1 + 3 * i), max_tokens=1 + (7 * i) % 20, temperature=0) for i in range(20)]
    engine = EngineUnderTest(num_blocks=256, max_num_seqs=6, budget=40, depth=depth)
    for request in requests:
        engine.add(request)
    answers = engine.run()
    for request in requests:
        assert [answers[request.request_id, 0].token_ids] == alone(request)
        assert answers[request.request_id, 0].finished[0].reason == "length"
        assert len(answers[request.request_id, 0].token_ids) == request.sampling.max_tokens


@pytest.mark.parametrize("depth", [1, 2])
def test_a_budget_of_sixteen_chunks_a_long_prompt(depth):
    request = submit(1, prompt(1, 100), max_tokens=10)
    engine = EngineUnderTest(budget=16, depth=depth)
    engine.add(request)
    answers = engine.run()
    assert [answers[1, 0].token_ids] == alone(request)
    assert max(step.num_tokens for step in engine.steps) == 16


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("prefix_caching", [False, True])
def test_a_tiny_cache_preempts_and_changes_no_token(depth, prefix_caching):
    requests = [submit(i, prompt(i, 10), max_tokens=40) for i in range(6)]
    engine = EngineUnderTest(num_blocks=20, depth=depth, max_model_len=64, prefix_caching=prefix_caching)
    for request in requests:
        engine.add(request)
    answers = engine.run()
    assert engine.scheduler.num_preemptions > 0
    for request in requests:
        assert [answers[request.request_id, 0].token_ids] == alone(request)


def test_no_request_is_preempted_more_than_three_times():
    engine = EngineUnderTest(num_blocks=16, max_num_seqs=8, max_model_len=64)
    for i in range(12):
        engine.add(submit(i, prompt(i, 5), max_tokens=50))
    most = 0
    while engine.step():
        choices = [c for request in engine.scheduler.requests.values() for c in request.choices]
        most = max([most, *(choice.num_preemptions for choice in choices)])
    assert 0 < most <= 3
    assert all(len(answer.token_ids) == 50 for answer in engine.answers.values())


def test_a_shared_prefix_is_computed_once_even_in_the_same_step():
    shared = prompt(0, 40)
    engine = EngineUnderTest(num_blocks=256, budget=512)
    requests = [submit(i, shared + prompt(100 + i, 5), max_tokens=4) for i in range(5)]
    for request in requests:
        engine.add(request)
    answers = engine.run()
    assert engine.steps[0].num_tokens == 45 + 4 * 5
    assert [answers[i, 0].started[0].num_cached_tokens for i in range(5)] == [0, 40, 40, 40, 40]
    for request in requests:
        assert [answers[request.request_id, 0].token_ids] == alone(request)


@pytest.mark.parametrize("depth", [1, 2])
def test_a_prefix_that_is_computed_in_chunks_is_computed_once(depth):
    shared = prompt(0, 96)
    engine = EngineUnderTest(num_blocks=256, budget=64, depth=depth)
    requests = [submit(i, shared + prompt(100 + i, 5), max_tokens=4) for i in range(5)]
    for request in requests:
        engine.add(request)
    answers = engine.run()
    assert sum(step.num_tokens for step in engine.steps) <= 96 + 5 * 5 + 5 * 4 + 4
    assert sum(answers[i, 0].started[0].num_cached_tokens for i in range(5)) == 4 * 96
    for request in requests:
        assert [answers[request.request_id, 0].token_ids] == alone(request)


def test_a_whole_prompt_in_the_cache_still_computes_its_last_token():
    request = submit(1, prompt(1, 16), max_tokens=3)
    engine = EngineUnderTest()
    engine.add(request)
    engine.run()
    engine.add(submit(2, prompt(1, 16), max_tokens=3))
    answers = engine.run()
    assert answers[2, 0].started[0].num_cached_tokens == 12
    assert answers[2, 0].token_ids == answers[1, 0].token_ids


def test_another_salt_shares_no_blocks():
    engine = EngineUnderTest()
    for request_id, salt in ((1, "a"), (2, "b"), (3, "a")):
        request = submit(request_id, prompt(1, 16), max_tokens=2)
        engine.add(type(request)(**{**_fields(request), "cache_salt": salt}))
        engine.run()
    assert [engine.answers[i, 0].started[0].num_cached_tokens for i in (1, 2, 3)] == [0, 0, 12]


def _fields(struct):
    return {name: getattr(struct, name) for name in struct.__struct_fields__}


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("length", [15, 16, 17, 1])
def test_choices_share_the_prompts_blocks_and_draw_apart(depth, length):
    request = submit(1, prompt(3, length), max_tokens=12, n=4, seed=7)
    engine = EngineUnderTest(depth=depth, budget=10)
    engine.add(request)
    answers = engine.run()
    got = [answers[1, index].token_ids for index in range(4)]
    assert got == alone(request)
    assert len({tuple(tokens) for tokens in got}) == 4
    computed = sum(step.num_tokens for step in engine.steps)
    assert computed <= length + 3 + 4 * 12, "the prompt was computed again for the other choices"


def test_choices_of_one_token_each_are_all_answered():
    request = submit(1, prompt(3, 9), max_tokens=1, n=5, seed=7)
    for depth in (1, 2):
        engine = EngineUnderTest(depth=depth)
        engine.add(request)
        answers = engine.run()
        assert [answers[1, index].token_ids for index in range(5)] == alone(request)


def test_choices_that_wait_with_shared_blocks_never_deadlock():
    engine = EngineUnderTest(num_blocks=10, max_num_seqs=2, max_model_len=40, prefix_caching=False)
    for i in range(4):
        engine.add(submit(i, prompt(i, 14), max_tokens=24, n=4, seed=i))
    answers = engine.run(5000)
    assert len(answers) == 16
    assert all(len(answer.token_ids) == 24 for answer in answers.values())


def test_eos_ends_a_choice_and_the_row_planned_ahead_is_dropped():
    engine = EngineUnderTest(eos_probability=0.2, num_blocks=256)
    requests = [submit(i, prompt(i, 6), max_tokens=60) for i in range(12)]
    for request in requests:
        engine.add(request)
    answers = engine.run()
    stopped = [answer for answer in answers.values() if answer.finished[0].reason == "stop"]
    assert stopped
    for answer in stopped:
        assert answer.token_ids[-1] == EOS and EOS not in answer.token_ids[:-1]
        assert answer.finished[0].stop_reason is None
    for request in requests:
        assert [answers[request.request_id, 0].token_ids] == alone(request, eos_probability=0.2)


def test_ignore_eos_goes_on_and_stop_token_ids_are_named():
    first = alone(submit(1, prompt(1, 6), max_tokens=30))[0]
    engine = EngineUnderTest()
    engine.add(submit(1, prompt(1, 6), max_tokens=30, stop_token_ids=[first[10]]))
    answer = engine.run()[1, 0]
    assert answer.token_ids == first[: first.index(first[10]) + 1]
    assert answer.finished[0].stop_reason == first[10]
    engine = EngineUnderTest(eos_probability=0.5)
    engine.add(submit(2, prompt(1, 6), max_tokens=30, ignore_eos=True))
    assert len(engine.run()[2, 0].token_ids) == 30


def test_max_tokens_zero_scores_the_prompt_and_generates_nothing():
    engine = EngineUnderTest(budget=8)
    engine.add(submit(1, prompt(1, 20), max_tokens=0, prompt_logprobs=2))
    answer = engine.run()[1, 0]
    assert answer.token_ids == [] and answer.finished[0].reason == "length"
    assert len(answer.prompt_logprobs[0].logprobs) == 4 * 19
    assert len(answer.prompt_logprobs[0].top_ids) == 4 * 19 * 2


def test_prompt_logprobs_are_whole_after_preemption_and_use_no_cache():
    engine = EngineUnderTest(num_blocks=18, budget=12, max_model_len=64)
    for i in range(4):
        engine.add(submit(i, prompt(1, 20), max_tokens=30, prompt_logprobs=0))
    answers = engine.run()
    for answer in answers.values():
        assert len(answer.prompt_logprobs) == 1 and len(answer.prompt_logprobs[0].logprobs) == 4 * 19
        assert answer.started[0].num_cached_tokens == 0


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("cut", [0, 1, 7, 19])
def test_a_resumed_request_goes_on_as_if_nothing_had_been(depth, cut):
    whole = submit(1, prompt(1, 10), max_tokens=20, n=2, seed=5)
    reference = alone(whole)
    history = [History(ids_bytes(tokens[:cut]), 0) for tokens in reference]
    engine = EngineUnderTest(depth=depth)
    engine.add(submit(1, prompt(1, 10), max_tokens=20, n=2, seed=5, history=history))
    answers = engine.run()
    assert [answers[1, index].token_ids for index in range(2)] == [tokens[cut:] for tokens in reference]


def test_a_choice_that_had_finished_is_not_run_again():
    reference = alone(submit(1, prompt(1, 10), max_tokens=6, n=2, seed=5))
    history = [History(ids_bytes(reference[0]), 0, is_finished=True), History(ids_bytes(reference[1][:3]), 0)]
    engine = EngineUnderTest()
    engine.add(submit(1, prompt(1, 10), max_tokens=6, n=2, seed=5, history=history))
    answers = engine.run()
    assert set(answers) == {(1, 1)}
    assert answers[1, 1].token_ids == reference[1][3:]


def test_a_history_that_is_complete_ends_at_once():
    reference = alone(submit(1, prompt(1, 10), max_tokens=6))
    engine = EngineUnderTest()
    request = engine.add(submit(1, prompt(1, 10), max_tokens=6, history=[History(ids_bytes(reference[0]), 0)]))
    engine.committer.end_exhausted(request, 0.0)
    answers = engine.run()
    assert answers[1, 0].finished[0].reason == "length" and answers[1, 0].token_ids == []


def test_running_streams_get_a_token_each_step_while_a_long_prompt_is_computed():
    engine = EngineUnderTest(num_blocks=256, budget=16, max_model_len=256)
    for i in range(4):
        engine.add(submit(i, prompt(i, 4), max_tokens=60))
    for _ in range(4):
        engine.step()
    engine.add(submit(9, prompt(9, 200), max_tokens=2))
    before = len(engine.steps)
    while (9, 0) not in engine.answers:
        engine.step()
    mixed = [step for step in engine.steps[before:] if any(row.num_scheduled > 1 for row in step.rows)]
    assert len(mixed) > 10
    for step in mixed:
        assert sum(row.num_scheduled == 1 for row in step.rows) >= 4


def test_a_short_request_does_not_wait_for_a_long_prompt():
    engine = EngineUnderTest(num_blocks=256, budget=16, max_model_len=256)
    engine.add(submit(1, prompt(1, 200), max_tokens=2))
    engine.step()
    engine.add(submit(2, prompt(2, 6), max_tokens=2))
    while (2, 0) not in engine.answers:
        engine.step()
    assert (1, 0) not in engine.answers


def test_a_request_that_does_not_fit_is_passed_but_not_for_ever():
    engine = EngineUnderTest(num_blocks=32, max_num_seqs=4, max_model_len=128, prefix_caching=False)
    engine.add(submit(0, prompt(0, 40), max_tokens=60))
    engine.step()
    engine.add(submit(1, prompt(1, 100), max_tokens=4))
    request_id = 2
    while (1, 0) not in engine.answers:
        if len(engine.scheduler.waiting) < 4:
            engine.add(submit(request_id, prompt(request_id, 6), max_tokens=6))
            request_id += 1
        engine.step()
        assert request_id < 400, "the large request starves"
    assert any((small, 0) in engine.answers for small in range(2, 10)), "nothing passed the large request"


def test_the_priority_policy_serves_the_lower_number_first():
    for policy, expected in (("priority", [2, 1, 0]), ("fcfs", [0, 1, 2])):
        engine = EngineUnderTest(max_num_seqs=1, policy=policy)
        for i in range(3):
            engine.add(submit(i, prompt(i, 4), max_tokens=3, priority=-i))
        ends = []
        while engine.step():
            ends += [key[0] for key, answer in engine.answers.items() if answer.finished and key[0] not in ends]
        assert ends == expected


def test_preemption_takes_from_the_youngest():
    engine = EngineUnderTest(num_blocks=8, block_size=4, max_model_len=32)
    for i in range(2):
        engine.add(submit(i, prompt(i, 12), max_tokens=16))
    while engine.scheduler.num_preemptions == 0:
        assert engine.step()
    assert [choice.request.submit.request_id for choice in engine.scheduler.waiting] == [1]


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("after", range(7))
def test_abort_at_any_moment_frees_everything(depth, after):
    engine = EngineUnderTest(depth=depth, budget=8, max_num_seqs=3)
    for i in range(5):
        engine.add(submit(i, prompt(i, 20), max_tokens=10, n=2, seed=i))
    for _ in range(after):
        engine.step()
    for i in range(5):
        engine.abort(i)
    assert engine.scheduler.blocks.num_used == 0, "blocks are held although every request is gone"
    engine.run()


def test_abort_while_waiting_frees_nothing_and_never_starts():
    engine = EngineUnderTest(max_num_seqs=1)
    engine.add(submit(1, prompt(1, 8), max_tokens=5))
    engine.add(submit(2, prompt(2, 8), max_tokens=5))
    engine.step()
    used = engine.scheduler.blocks.num_used
    engine.abort(2)
    assert engine.scheduler.blocks.num_used == used
    assert set(engine.run()) == {(1, 0)}


def test_abort_of_one_choice_leaves_the_others():
    reference = alone(submit(1, prompt(1, 10), max_tokens=12, n=3, seed=5))
    engine = EngineUnderTest()
    engine.add(submit(1, prompt(1, 10), max_tokens=12, n=3, seed=5))
    for _ in range(5):
        engine.step()
    engine.abort(1, 1)
    answers = engine.run()
    assert answers[1, 0].token_ids == reference[0] and answers[1, 2].token_ids == reference[2]
    assert not answers[1, 1].finished and len(answers[1, 1].token_ids) < 12


def test_logits_that_are_not_finite_end_their_row_alone_and_leave_no_cached_block():
    engine = EngineUnderTest(failure_probability=0.05, num_blocks=256)
    requests = [submit(i, prompt(i, 9), max_tokens=40) for i in range(8)]
    for request in requests:
        engine.add(request)
    answers = engine.run()
    failed = [answer for answer in answers.values() if answer.finished[0].reason == "error"]
    assert 0 < len(failed) < 8
    assert all(answer.finished[0].message for answer in failed)
    for request in requests:
        assert (
            alone(request)[0][: len(answers[request.request_id, 0].token_ids)]
            == answers[request.request_id, 0].token_ids
        )


def test_lost_workers_end_every_choice_once_also_those_not_yet_forked():
    engine = EngineUnderTest(budget=8)
    engine.add(submit(1, prompt(1, 20), max_tokens=10, n=3))
    engine.step()
    engine.committer.let_all_go("lost", "gone")
    engine._collect()
    assert {key: answer.finished[0].reason for key, answer in engine.answers.items()} == {
        (1, 0): "lost",
        (1, 1): "lost",
        (1, 2): "lost",
    }
    assert not engine.scheduler.requests


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_mix_of_requests_aborts_and_sizes_keeps_every_invariant(data):
    engine = EngineUnderTest(
        num_blocks=data.draw(st.integers(12, 40), "blocks"),
        block_size=data.draw(st.sampled_from([1, 2, 4, 8]), "block size"),
        max_num_seqs=data.draw(st.integers(1, 6), "rows"),
        budget=data.draw(st.integers(1, 24), "budget"),
        max_model_len=12,
        depth=data.draw(st.integers(1, 2), "depth"),
        eos_probability=0.05,
        policy=data.draw(st.sampled_from(["fcfs", "priority"]), "policy"),
        prefix_caching=data.draw(st.booleans(), "prefix caching"),
    )
    requests, aborted = {}, set()
    for request_id in range(data.draw(st.integers(1, 10), "requests")):
        length = data.draw(st.integers(1, 10), "length")
        request = submit(
            request_id,
            prompt(data.draw(st.integers(0, 2), "prefix"), length),
            max_tokens=data.draw(st.integers(0, 12 - length), "max tokens"),
            n=data.draw(st.integers(1, 3), "n"),
            priority=data.draw(st.integers(-1, 1), "priority"),
            seed=request_id,
        )
        requests[request_id] = request
        engine.add(request)
        for _ in range(data.draw(st.integers(0, 4), "steps")):
            engine.step()
        if data.draw(st.booleans(), "abort"):
            victim = data.draw(st.integers(0, request_id), "victim")
            aborted.add(victim)
            engine.abort(victim, data.draw(st.none() | st.integers(0, requests[victim].n - 1), "choice"))
    answers = engine.run(5000)
    for request_id, request in requests.items():
        for index, expected in enumerate(alone(request, eos_probability=0.05)):
            answer = answers.get((request_id, index))
            if request_id in aborted:
                assert answer is None or answer.token_ids == expected[: len(answer.token_ids)]
            else:
                assert answer is not None and answer.token_ids == expected
                assert len(answer.finished) == 1
