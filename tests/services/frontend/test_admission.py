"""The door: what enters, what is refused, and that every place comes back."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.services.frontend.admission import Admission, Permit
from quire.shared.errors import ApiError
from quire.shared.messages import GenerationDefaults, ModelCard
from quire.shared.metrics import Metrics

CARD = ModelCard(["demo"], "/m", 0, 1000, 2048, 16, 65536, True, GenerationDefaults())


def door(max_in_flight: int | None = None, max_size: int = 1000) -> Admission:
    return Admission(max_in_flight, max_size, Metrics())


def test_the_limit_is_four_batches_but_at_least_64() -> None:
    assert door().limit(CARD) == 64
    assert door().limit(msgspec.structs.replace(CARD, max_num_seqs=100)) == 400
    assert door(5).limit(CARD) == 5


def test_a_place_comes_back_however_the_request_ends() -> None:
    admission = door(2)
    for error in (None, RuntimeError(), ApiError):
        try:
            with admission.enter(CARD, 2, 10):
                assert admission.num_in_flight == 2
                if error is not None:
                    raise RuntimeError
        except RuntimeError:
            pass
        assert (admission.num_in_flight, admission.size_bytes) == (0, 0)


def test_a_permit_is_given_back_once() -> None:
    admission = door(4)
    permit = admission.enter(CARD, 2, 10)
    with admission.enter(CARD, 2, 10):
        permit.__exit__(None, None, None)
        permit.__exit__(None, None, None)
        assert admission.num_in_flight == 2


def test_choices_and_bytes_are_both_limits() -> None:
    admission = door(3, 100)
    admission.enter(CARD, 2, 60)
    with pytest.raises(ApiError) as by_choices:
        admission.enter(CARD, 2, 1)
    with pytest.raises(ApiError) as by_bytes:
        admission.enter(CARD, 1, 41)
    for caught in (by_choices, by_bytes):
        assert caught.value.status == 429
        assert caught.value.retry_after_seconds is not None and 1 <= caught.value.retry_after_seconds <= 60
    admission.enter(CARD, 1, 40)


def test_a_refused_change_leaves_the_permit_as_it_was() -> None:
    admission = door(3)
    admission.enter(CARD, 2, 5)
    permit = admission.enter(CARD, 0, 10)
    with pytest.raises(ApiError):
        permit.change(CARD, 2, 10)
    assert (permit.num_choices, admission.num_in_flight, admission.size_bytes) == (0, 2, 15)
    permit.change(CARD, 1, 3)
    assert (admission.num_in_flight, admission.size_bytes) == (3, 8)


def test_a_request_larger_than_the_limit_enters_alone() -> None:
    admission = door(4)
    with admission.enter(CARD, 128, 5000), pytest.raises(ApiError):
        admission.look(CARD, "")
    admission.look(CARD, "")


def test_closed_doors_say_why() -> None:
    admission = door()
    with pytest.raises(ApiError) as starting:
        admission.look(None, "waiting for worker-0-0")
    assert starting.value.status == 503 and "worker-0-0" in starting.value.message
    admission.is_draining = True
    with pytest.raises(ApiError) as draining:
        admission.look(CARD, "")
    assert draining.value.status == 503 and draining.value.retry_after_seconds


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 400), st.booleans()), max_size=40))
def test_what_is_counted_is_always_what_is_inside(script: list[tuple[int, int, bool]]) -> None:
    admission = door(8)
    inside: list[Permit] = []
    for choices, size, leaves in script:
        try:
            inside.append(admission.enter(CARD, choices, size))
        except ApiError as error:
            assert error.status == 429
        if leaves and inside:
            inside.pop(0).__exit__(None, None, None)
        assert admission.num_in_flight == sum(permit.num_choices for permit in inside)
        assert admission.size_bytes == sum(permit.size_bytes for permit in inside)
        assert admission.num_in_flight <= 8
        assert 1 <= admission.retry_seconds <= 60
