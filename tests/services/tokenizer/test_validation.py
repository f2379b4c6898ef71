"""From a Generate and its ids to a Submit, or a refusal that names field, value and limit."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.services.tokenizer.token_ids import pack_ids, unpack_ids
from quire.services.tokenizer.validation import (
    Limits,
    check_ids_length,
    check_sampling,
    check_text_length,
    make_submit,
    unpack_prompt,
)
from quire.shared.errors import ApiError
from quire.shared.messages import Generate, History, RequestId, SamplingParams, TextParams, TextPrompt

LIMITS = Limits(max_model_len=100, vocab_size=50, default_max_tokens=None, max_chars_per_token=10)


def _generate(
    n: int = 1, text: TextParams | None = None, history: list[History] | None = None, **sampling: Any
) -> Generate:
    return Generate(
        RequestId(1),
        TextPrompt("x"),
        n,
        SamplingParams(**sampling),
        text or TextParams(),
        3,
        1.5,
        "salt",
        history or [],
    )


def _submitted_max_tokens(num_prompt: int, limits: Limits = LIMITS, **sampling: Any) -> int | None:
    return make_submit(_generate(**sampling), [1] * num_prompt, limits).sampling.max_tokens


def _refusal(call: Any, *arguments: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        call(*arguments)
    assert caught.value.status == 400
    return caught.value


def test_a_submit_carries_everything_the_engine_needs() -> None:
    history = [History(pack_ids([4]), 1)]
    submit = make_submit(_generate(history=history, seed=7, max_tokens=5), [1, 2, 3], LIMITS)
    assert unpack_ids(submit.prompt_ids) == [1, 2, 3]
    assert (submit.n, submit.priority, submit.arrival, submit.cache_salt) == (1, 3, 1.5, "salt")
    assert submit.history == history and submit.sampling == SamplingParams(seed=7, max_tokens=5)


@given(num_prompt=st.integers(1, 99), wanted=st.none() | st.integers(0, 300), default=st.none() | st.integers(1, 300))
def test_max_tokens_is_what_was_asked_for_and_fits(num_prompt: int, wanted: int | None, default: int | None) -> None:
    limits = Limits(max_model_len=100, vocab_size=50, default_max_tokens=default)
    room = 100 - num_prompt
    expected = min(room, wanted if wanted is not None else default if default is not None else room)
    assert _submitted_max_tokens(num_prompt, limits, max_tokens=wanted) == expected


@pytest.mark.parametrize("num_prompt", [100, 101, 5000])
def test_a_prompt_that_leaves_no_room_is_refused_in_the_words_clients_know(num_prompt: int) -> None:
    error = _refusal(make_submit, _generate(), [1] * num_prompt, LIMITS)
    assert error.code == "context_length_exceeded"
    assert error.message == (
        f"This model's maximum context length is 100 tokens, but your prompt is too long: it has {num_prompt} tokens."
        " Please reduce the length of the messages."
    )


def test_the_longest_prompt_that_leaves_room_for_one_token_is_taken() -> None:
    assert _submitted_max_tokens(99) == 1


def test_a_text_that_cannot_fit_is_refused_before_it_is_encoded() -> None:
    check_text_length("x" * 1000, LIMITS)
    error = _refusal(check_text_length, "x" * 1001, LIMITS)
    assert error.code == "context_length_exceeded" and "at least 101 tokens" in error.message
    check_text_length("x" * 5000, Limits(100, 50, max_chars_per_token=None))


def test_an_empty_prompt_is_refused() -> None:
    assert _refusal(make_submit, _generate(), [], LIMITS).param == "prompt"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stop_token_ids", [1, 50]),
        ("stop_token_ids", [-1]),
        ("logit_bias", {50: 1.0}),
        ("allowed_token_ids", [0, 99]),
        ("bad_token_ids", [2**40]),
    ],
)
def test_ids_outside_the_vocabulary_are_refused_by_field_value_and_limit(field: str, value: Any) -> None:
    error = _refusal(check_sampling, _generate(**{field: value}), LIMITS)
    wrong = next(token_id for token_id in value if not 0 <= token_id < 50)
    assert error.param == field
    assert error.message == f"{field} contains token id {wrong}, but the vocabulary's ids are 0 to 49"


def test_the_last_id_of_the_vocabulary_is_in_it_wherever_it_stands() -> None:
    check_sampling(
        _generate(stop_token_ids=[49], logit_bias={49: 1.0}, allowed_token_ids=[49], bad_token_ids=[49]), LIMITS
    )
    assert unpack_prompt(pack_ids([0, 49]), LIMITS) == [0, 49]


@pytest.mark.parametrize("ids", [[50], [3, -1], [2**31 - 1]])
def test_prompt_ids_outside_the_vocabulary_are_refused(ids: list[int]) -> None:
    assert _refusal(unpack_prompt, pack_ids(ids), LIMITS).param == "prompt"


def test_many_prompt_ids_are_unpacked_in_pieces_to_the_same_ids() -> None:
    ids = [number % 50 for number in range(100_000)]
    assert unpack_prompt(pack_ids(ids), LIMITS) == ids
    for position in (0, 50_000, 99_999):
        wrong = [*ids[:position], 50, *ids[position + 1 :]]
        assert "token id 50," in _refusal(unpack_prompt, pack_ids(wrong), LIMITS).message


def test_ids_that_cannot_fit_are_refused_before_they_are_unpacked() -> None:
    limit = LIMITS.max_model_len
    check_ids_length(pack_ids([0] * (limit - 1)), LIMITS)
    error = _refusal(check_ids_length, pack_ids([-1] * limit), LIMITS)
    assert (error.code, error.param) == ("context_length_exceeded", "prompt") and f"has {limit} tokens" in error.message


def test_prompt_ids_that_are_no_int32_are_refused() -> None:
    _refusal(unpack_prompt, b"abc", LIMITS)


def test_no_allowed_token_at_all_is_refused() -> None:
    assert _refusal(check_sampling, _generate(allowed_token_ids=[]), LIMITS).param == "allowed_token_ids"


def test_min_tokens_may_reach_but_not_pass_max_tokens_and_the_room() -> None:
    check_sampling(_generate(min_tokens=5, max_tokens=5), LIMITS)
    assert "6" in _refusal(check_sampling, _generate(min_tokens=6, max_tokens=5), LIMITS).message
    assert _submitted_max_tokens(90, min_tokens=10, max_tokens=50) == 10
    error = _refusal(make_submit, _generate(min_tokens=11, max_tokens=50), [1] * 90, LIMITS)
    assert error.param == "min_tokens" and "room for 10" in error.message


def test_truncation_keeps_the_last_tokens() -> None:
    def kept(keep: int, **sampling: Any) -> list[int]:
        generate = _generate(text=TextParams(truncate_prompt_tokens=keep), **sampling)
        return unpack_ids(make_submit(generate, list(range(40)) * 5, LIMITS).prompt_ids)

    assert kept(3) == [37, 38, 39]
    assert len(kept(-1)) == 99
    assert len(kept(-1, max_tokens=30)) == 70


@pytest.mark.parametrize("keep", [0, -2, 101])
def test_truncation_out_of_bounds_is_refused(keep: int) -> None:
    error = _refusal(check_sampling, _generate(text=TextParams(truncate_prompt_tokens=keep)), LIMITS)
    assert error.param == "truncate_prompt_tokens" and str(keep) in error.message


def test_a_history_has_an_entry_a_choice() -> None:
    assert _refusal(check_sampling, _generate(n=2, history=[History(b"", 0)]), LIMITS).param == "n"
