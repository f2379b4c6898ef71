"""The slope of a process's memory: what grows is seen, what only jumps about is not taken for growth."""

from __future__ import annotations

import random

import pytest

from .memory_slopes import MIB, later_half, slope


def grown(mib_per_hour: float, noise_mib: float = 0.0, seconds: int = 1200) -> list[tuple[float, float]]:
    generator = random.Random(1)
    return [
        (at, (50 + mib_per_hour * at / 3600 + generator.uniform(0, noise_mib)) * MIB) for at in range(0, seconds, 2)
    ]


@pytest.mark.parametrize("rate", [-3.0, 0.0, 0.5, 40.0])
def test_a_steady_growth_is_its_slope_and_within_its_interval(rate: float) -> None:
    found = slope(grown(rate, noise_mib=0.2))
    assert found is not None
    assert found.mib_per_hour == pytest.approx(rate, abs=0.3)
    assert found.low <= rate <= found.high and found.high - found.low < 1.0


def test_spikes_and_a_late_step_are_no_growth_but_widen_nothing_below_zero() -> None:
    points = [(at, 50 * MIB + (30 * MIB if at % 50 == 0 else 0)) for at in range(0, 1200, 2)]
    found = slope(points)
    assert found is not None and found.mib_per_hour == 0
    stepped = [(at, size + (MIB if at > 1100 else 0)) for at, size in points]
    found = slope(stepped)
    assert found is not None and found.mib_per_hour == 0 and found.low <= 0


def test_a_staircase_is_its_mean_slope() -> None:
    found = slope([(at, (at // 60) * MIB / 4) for at in range(0, 1800, 2)])
    assert found is not None and found.mib_per_hour == pytest.approx(15, rel=0.1) and found.low > 10


def test_too_few_samples_say_nothing() -> None:
    assert slope([]) is None and slope(grown(5, seconds=20)) is None


def test_the_warm_up_is_the_first_half_of_a_life() -> None:
    assert later_half([(at, 0.0) for at in range(10, 21)]) == [(at, 0.0) for at in range(15, 21)]
    assert later_half([]) == []
