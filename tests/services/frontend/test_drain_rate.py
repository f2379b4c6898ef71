"""When refused clients are told to come back: by the rate at which what is held has left."""

from __future__ import annotations

from quire.services.frontend.drain_rate import MAX_RETRY_SECONDS, DrainRate


def drained(amount_each_second: float, seconds: int) -> DrainRate:
    rate = DrainRate()
    rate.start(100.0)
    for second in range(1, seconds + 1):
        rate.leave(amount_each_second, 100.0 + second)
    return rate


def test_the_rate_is_right_after_a_second_and_after_a_minute() -> None:
    for seconds in (1, 5, 60):
        assert 3.5 < drained(4.0, seconds).per_second(100.0 + seconds) < 4.5


def test_the_wait_is_what_is_held_over_the_rate_in_whole_seconds() -> None:
    rate = drained(4.0, 60)
    assert rate.retry_seconds(1, 160.0) == 1
    assert rate.retry_seconds(41, 160.0) in (10, 11)
    assert rate.retry_seconds(1e9, 160.0) == MAX_RETRY_SECONDS


def test_idle_time_is_not_a_jam() -> None:
    rate = drained(4.0, 60)
    rate.start(100_000.0)
    assert 3.5 < rate.per_second(100_000.5) < 4.5


def test_a_jam_makes_the_wait_longer() -> None:
    rate = drained(4.0, 60)
    assert rate.retry_seconds(40, 160.0) < rate.retry_seconds(40, 180.0)


def test_where_nothing_has_left_yet_the_wait_is_as_long_as_it_took_so_far() -> None:
    rate = DrainRate()
    assert rate.retry_seconds(5, 7.0) == 1
    rate.start(10.0)
    assert rate.retry_seconds(5, 10.0) == 1
    assert rate.retry_seconds(5, 22.0) == 12
    assert rate.retry_seconds(5, 500.0) == MAX_RETRY_SECONDS
