"""A short soak: mixed work, clients that leave, and faults; nothing fails, nothing is held, nothing is left open."""

from __future__ import annotations

import pytest

from .history import Verdict
from .running_server import serving
from .soak import SERVER, Outcome, Sample, soak, told


def test_mixed_work_and_faults_lose_nothing_and_leave_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(*SERVER, "--check-invariants") as server:
        outcome = soak(server, 20.0)
    with capsys.disabled():
        print("\n" + told(outcome))
    verdict = outcome.verdict
    assert not verdict.num_broken and not verdict.num_different, verdict.remarks[:5]
    assert verdict.num_same > 32 and outcome.num_left and sum(outcome.faults.values()) >= 2
    assert not outcome.grown_files()


def test_growth_is_seen():
    samples = [Sample(float(at), {7: (100 + at) << 20}, {"engine-0": 10}, {"engine-0": 7}) for at in range(20)]
    outcome = Outcome(Verdict(), 20.0, {}, 0, samples, {"engine-0": 10}, {"engine-0": 30})
    assert outcome.slopes() == {"engine-0": pytest.approx(3600.0)}
    assert outcome.grown_files() == {"engine-0": (10, 30)}
