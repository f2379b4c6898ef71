from __future__ import annotations

from quire.services.worker.start_phases import StartPhases, process_seconds


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_phases_are_told_in_order_with_their_times():
    clock = Clock()
    phases = StartPhases(clock, seconds_before=0.25)
    phases.begin("torch")
    clock.now += 1.5
    phases.begin("weights")
    clock.now += 2
    phases.end()
    assert str(phases) == "python 0.25 s, torch 1.50 s, weights 2.00 s"


def test_what_lies_between_an_end_and_the_next_beginning_is_no_phase():
    clock = Clock()
    phases = StartPhases(clock)
    phases.begin("weights")
    phases.end()
    clock.now += 60
    phases.begin("warm-up")
    clock.now += 1
    phases.end()
    assert str(phases) == "weights 0.00 s, warm-up 1.00 s"


def test_a_process_knows_how_old_it_is():
    first = process_seconds()
    assert 0 < first <= process_seconds()
