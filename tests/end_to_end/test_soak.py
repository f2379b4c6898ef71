"""A short soak: mixed work, clients that leave, and faults; nothing fails, nothing is held, nothing is left open."""

from __future__ import annotations

import pytest

from .history import Verdict
from .running_server import serving
from .soak import SERVER, soak
from .soak_outcome import Outcome, Sample, told


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
    samples = [
        Sample(float(at), {7: (100 << 20) + (at << 14), 8: 5 << 20}, {"engine-0": 10}, {"engine-0": 7, "frontend-0": 8})
        for at in range(0, 600, 2)
    ]
    outcome = Outcome(Verdict(), 20.0, {}, 0, 0, samples, {"engine-0": 10}, {"engine-0": 30})
    slopes = outcome.slopes()
    assert slopes["engine-0"].mib_per_hour == pytest.approx(3600 / 64) and slopes["frontend-0"].mib_per_hour == 0
    assert outcome.growing() == ["engine-0"]
    assert outcome.grown_files() == {"engine-0": (10, 30)}


@pytest.mark.parametrize("share", [0.6, 0.75, 0.9])
def test_a_single_step_is_no_growth(share: float) -> None:
    samples = [
        Sample(float(at), {7: (100 << 20) + (at > share * 1200) * (3 << 20)}, {}, {"launcher-0": 7})
        for at in range(0, 1200, 2)
    ]
    assert not Outcome(Verdict(), 20.0, {}, 0, 0, samples, {}, {}).growing()
