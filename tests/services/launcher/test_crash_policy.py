"""What a crash leads to: at once, later, never again."""

from __future__ import annotations

import pytest

from quire.services.launcher.child import Ending
from quire.services.launcher.crash_policy import GiveUp, Loss, Restart, RestartOnLoss, StayDown, StopAll, StopOnLoss

KILLED = Ending(-9, "")


def loss(name: str = "engine-0", **changes: float) -> Loss:
    return Loss(name, KILLED, **{"was_ready": True, "is_server_ready": True, **changes})


def delay(decision: object) -> float:
    assert isinstance(decision, Restart)
    return decision.delay_seconds


def test_the_first_crash_is_mended_at_once_and_later_ones_ever_later():
    policy = RestartOnLoss()
    assert [delay(policy.decide(loss(), now)) for now in (0.0, 1.0, 2.0, 3.0)] == [0.0, 0.5, 1.0, 2.0]


def test_the_fifth_crash_within_a_minute_is_the_last():
    policy = RestartOnLoss()
    for now in range(4):
        policy.decide(loss(), float(now))
    decision = policy.decide(loss(), 4.0)
    assert isinstance(decision, StayDown)
    assert "5 crashes within 60 s" in decision.cause and "SIGKILL" in decision.cause


def test_crashes_that_lie_far_apart_are_all_mended_at_once():
    policy = RestartOnLoss()
    assert [delay(policy.decide(loss(), now)) for now in (0.0, 100.0, 200.0, 300.0, 400.0, 500.0)] == [0.0] * 6


def test_services_have_budgets_of_their_own():
    policy = RestartOnLoss()
    for now in range(4):
        policy.decide(loss("worker-0-0"), float(now))
    assert delay(policy.decide(loss("tokenizer-0"), 4.0)) == 0.0


def test_a_tokenizer_that_served_a_while_comes_back_at_once_however_often_and_an_engine_does_not():
    policy = RestartOnLoss()
    decisions = [policy.decide(loss("tokenizer-0", served_seconds=3.0), 4.0 * number) for number in range(12)]
    assert [delay(decision) for decision in decisions] == [0.0] * 12
    for number in range(4):
        policy.decide(loss("engine-0", served_seconds=3.0), 4.0 * number)
    assert isinstance(policy.decide(loss("engine-0", served_seconds=3.0), 16.0), StayDown)


def test_a_tokenizer_that_crashes_as_soon_as_it_is_ready_stays_down():
    policy = RestartOnLoss()
    for number in range(4):
        policy.decide(loss("tokenizer-0", served_seconds=0.5), float(number))
    assert isinstance(policy.decide(loss("tokenizer-0", served_seconds=0.5), 4.0), StayDown)


def test_what_was_never_ready_does_not_start():
    assert isinstance(RestartOnLoss().decide(loss(is_server_ready=False, was_ready=False), 0.0), StopAll)


def test_an_addition_that_never_got_ready_is_given_up():
    assert isinstance(RestartOnLoss().decide(loss("tokenizer-1", was_ready=False, is_added=True), 0.0), GiveUp)


def test_a_service_that_dies_while_it_is_started_again_is_tried_again():
    policy = RestartOnLoss()
    assert [delay(policy.decide(loss(was_ready=False), now)) for now in (0.0, 0.1)] == [0.0, 0.5]


@pytest.mark.parametrize("was_ready", [True, False])
def test_without_restarts_a_needed_service_takes_all_with_it(was_ready: bool):
    decision = StopOnLoss().decide(loss(was_ready=was_ready), 0.0)
    assert isinstance(decision, StopAll if was_ready else GiveUp)
