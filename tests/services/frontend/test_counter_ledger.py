"""Sums over services that come and go: they never go back, and every frontend comes to the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quire.services.frontend.counter_ledger import CounterLedger
from quire.services.launcher.departed import DepartedCounts
from quire.shared.messages import Report

COUNTER, SUM, GAUGE = "quire_steps_total", "vllm:request_params_n_sum", "vllm:num_requests_running"


def report(name: str, incarnation: int, sequence: int, count: float) -> Report:
    samples = {COUNTER: count, SUM: 2 * count, GAUGE: 7.0}
    return Report(name, incarnation, sequence, "ready", "", 0.0, 0, samples)


def test_what_was_counted_before_a_restart_is_added_to_what_is_counted_after() -> None:
    ledger = CounterLedger()
    ledger.hear(report("engine-0", 1, 5, 100.0))
    ledger.hear(report("engine-0", 1, 4, 90.0))  # late, by another way
    assert ledger.samples() == {COUNTER: 100.0, SUM: 200.0}
    ledger.hear(report("engine-0", 2, 1, 3.0))
    assert ledger.samples() == {COUNTER: 103.0, SUM: 206.0}
    ledger.hear(report("engine-0", 1, 9, 101.0))  # an incarnation that is past
    assert ledger.samples() == {COUNTER: 103.0, SUM: 206.0}


def test_what_the_launcher_tells_is_counted_once() -> None:
    launcher, there, new = DepartedCounts(), CounterLedger(), CounterLedger()
    for each in (launcher, there):
        each.hear(report("frontend-0", 1, 1, 10.0))
    departed = launcher.add("frontend-0")
    assert departed is not None and launcher.add("frontend-0") is None
    for ledger in (there, new):
        ledger.depart(departed)
        ledger.depart(departed)
        assert ledger.samples() == {COUNTER: 10.0, SUM: 20.0}
        ledger.hear(report("frontend-0", 2, 1, 1.0))
        assert ledger.samples()[COUNTER] == 11.0


@given(st.data())
def test_no_sum_goes_back_whenever_services_die_and_whenever_it_is_told(data: st.DataObject) -> None:
    """Reports reach the launcher and a frontend each when they may; at the end both know all that was reported."""
    launcher, ledger = DepartedCounts(), CounterLedger()
    truth: dict[str, float] = {}
    incarnations = {"engine-0": 1, "frontend-1": 1}
    counts = dict.fromkeys(incarnations, 0.0)
    untold = []
    seen = 0.0
    for sequence in range(1, data.draw(st.integers(1, 30)) + 1):
        name = data.draw(st.sampled_from(sorted(incarnations)))
        action = data.draw(st.sampled_from(["count", "die", "tell"]))
        if action == "count":
            counts[name] += data.draw(st.integers(0, 5))
            one = report(name, incarnations[name], sequence, counts[name])
            truth[f"{name} {incarnations[name]}"] = counts[name]
            launcher.hear(one)
            if data.draw(st.booleans()):
                ledger.hear(one)
        elif action == "die":
            incarnations[name] += 1
            counts[name] = 0.0
            if (departed := launcher.add(name)) is not None:
                untold.append(departed)
        elif untold:
            ledger.depart(untold.pop(data.draw(st.integers(0, len(untold) - 1))))
        now = ledger.samples().get(COUNTER, 0.0)
        assert now >= seen
        seen = now
    for name, incarnation in incarnations.items():
        ledger.hear(report(name, incarnation, 99, counts[name]))
    for departed in launcher.all:
        ledger.depart(departed)
    assert ledger.samples()[COUNTER] == sum(truth.values())
