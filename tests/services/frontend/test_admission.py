"""The door: what enters, what is refused, and that every place comes back."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.services.frontend.admission import Admission, Held, Permit, tokens_in
from quire.shared.config import FrontendConfig
from quire.shared.errors import ApiError
from quire.shared.messages import GenerationDefaults, ModelCard
from quire.shared.metrics import Metrics

CARD = ModelCard(["demo"], "/m", 0, 1000, 2048, 16, 65536, True, GenerationDefaults())


def door(max_in_flight: int | None = None, max_size: int = 1000, **limits: int) -> Admission:
    return Admission(FrontendConfig(max_in_flight=max_in_flight, max_in_flight_size=max_size, **limits), Metrics())


def enter(admission: Admission, choices: int, size: int = 0, tokens: int = 0, key: str = "") -> Permit:
    return admission.enter(CARD, key, Held(choices, tokens, size))


def test_the_limit_is_four_batches_but_at_least_64() -> None:
    assert door().limit(CARD) == 64
    assert door().limit(msgspec.structs.replace(CARD, max_num_seqs=100)) == 400
    assert door(5).limit(CARD) == 5


def test_a_place_comes_back_however_the_request_ends() -> None:
    admission = door(2)
    for error in (None, RuntimeError(), ApiError):
        try:
            with enter(admission, 2, 10):
                assert admission.num_in_flight == 2
                if error is not None:
                    raise RuntimeError
        except RuntimeError:
            pass
        assert (admission.num_in_flight, admission.size_bytes) == (0, 0)


def test_a_permit_is_given_back_once() -> None:
    admission = door(4)
    permit = enter(admission, 2, 10)
    with enter(admission, 2, 10):
        permit.__exit__(None, None, None)
        permit.__exit__(None, None, None)
        assert admission.num_in_flight == 2


def test_choices_and_bytes_are_both_limits() -> None:
    admission = door(3, 100)
    enter(admission, 2, 60)
    with pytest.raises(ApiError) as by_choices:
        enter(admission, 2, 1)
    with pytest.raises(ApiError) as by_bytes:
        enter(admission, 1, 41)
    assert (by_choices.value.status, by_choices.value.code) == (429, "rate_limit_exceeded")
    assert (by_bytes.value.status, by_bytes.value.code) == (503, "server_overloaded")
    for caught in (by_choices, by_bytes):
        assert caught.value.retry_after_seconds is not None and 1 <= caught.value.retry_after_seconds <= 60
    enter(admission, 1, 40)


def test_a_refused_change_leaves_the_permit_as_it_was() -> None:
    admission = door(3)
    enter(admission, 2, 5)
    permit = enter(admission, 0, 10)
    with pytest.raises(ApiError):
        permit.change(CARD, Held(2, 0, 10))
    assert (permit.held.num_choices, admission.num_in_flight, admission.size_bytes) == (0, 2, 15)
    permit.change(CARD, Held(1, 0, 3))
    assert (admission.num_in_flight, admission.size_bytes) == (3, 8)


def test_a_request_larger_than_the_limit_enters_alone() -> None:
    admission = door(4)
    with enter(admission, 128, 5000), pytest.raises(ApiError):
        enter(admission, 1)
    enter(admission, 1)


def test_waiting_tokens_are_a_limit_until_they_run() -> None:
    admission = door(max_waiting_tokens=100)
    first = enter(admission, 1, tokens=60)
    with pytest.raises(ApiError) as full:
        enter(admission, 1, tokens=50)
    assert (full.value.status, full.value.code) == (503, "server_overloaded")
    assert "60" in full.value.message and "--max-waiting-tokens" in full.value.message
    first.count_tokens(30)
    second = enter(admission, 1, tokens=50)
    first.begin(30)
    assert admission.num_waiting_tokens == 50
    second.begin(20)
    second.begin(400)
    assert admission.num_waiting_tokens == 0
    assert door().token_limit(CARD) == 8 * CARD.num_kv_tokens


def test_a_prompt_that_is_too_long_for_the_model_is_not_what_fills_the_queue() -> None:
    assert tokens_in(400, 1, CARD) == 100
    assert tokens_in(8 << 20, 2, CARD) == 2 * CARD.max_model_len


def test_each_key_has_limits_of_its_own_and_is_told_which() -> None:
    admission = door(64, max_in_flight_per_key=3, max_waiting_tokens_per_key=50)
    enter(admission, 2, tokens=40, key="a")
    enter(admission, 2, tokens=40, key="b")
    with pytest.raises(ApiError) as by_choices:
        enter(admission, 2, key="a")
    with pytest.raises(ApiError) as by_tokens:
        enter(admission, 1, tokens=11, key="b")
    assert by_choices.value.status == by_tokens.value.status == 429
    assert "--max-in-flight-per-key" in by_choices.value.message
    assert "--max-waiting-tokens-per-key" in by_tokens.value.message
    enter(admission, 1, tokens=10, key="a")


def test_keys_that_hold_nothing_are_forgotten() -> None:
    admission = door(max_in_flight_per_key=3)
    for number in range(100):
        with enter(admission, 1, key=f"key-{number}"):
            assert admission.num_keys == 1
    assert admission.num_keys == 0


def test_closed_doors_say_why() -> None:
    admission = door()
    with pytest.raises(ApiError) as starting:
        admission.look(None, lambda: "waiting for worker-0-0")
    assert starting.value.status == 503 and "worker-0-0" in starting.value.message
    admission.is_draining = True
    with pytest.raises(ApiError) as draining:
        admission.look(CARD, str)
    assert draining.value.status == 503 and draining.value.retry_after_seconds


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 400), st.sampled_from("ab"), st.booleans()), max_size=40))
def test_what_is_counted_is_always_what_is_inside(script: list[tuple[int, int, str, bool]]) -> None:
    admission = door(8, max_waiting_tokens=1500, max_in_flight_per_key=5)
    inside: list[Permit] = []
    for choices, size, key, leaves in script:
        try:
            inside.append(enter(admission, choices, size, 3 * size, key))
        except ApiError as error:
            assert error.status in (429, 503) and 1 <= (error.retry_after_seconds or 0) <= 60
        if leaves and inside:
            inside.pop(0).__exit__(None, None, None)
        assert admission.num_in_flight == sum(permit.held.num_choices for permit in inside)
        assert admission.size_bytes == sum(permit.held.size_bytes for permit in inside)
        assert admission.num_waiting_tokens == sum(permit.held.num_tokens for permit in inside)
        assert admission.num_keys == len({permit.key for permit in inside})
        assert admission.num_in_flight <= 8
        assert 1 <= admission.retry_seconds() <= 60
