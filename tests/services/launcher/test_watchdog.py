"""The watchdog: who is silent and idle is killed, who is silent and busy is left alone for long."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from quire.services.launcher import watchdog
from quire.services.launcher.watchdog import Watchdog
from quire.shared.messages import Report


class FakeChild:
    """A child's face towards the watchdog."""

    def __init__(self) -> None:
        self.pid, self.pidfd = 7, -1
        self.was_ready, self.is_stopping = True, False
        self.said: list[str] = []
        self.killed_at: float | None = None
        self.speak(1)

    def speak(self, sequence: int) -> None:
        self.report = Report("engine-0", 1, sequence, "ready", "", 1.0, sequence)

    def condemn(self, verdict: str) -> None:
        self.said.append(verdict)

    def kill_as_lost(self) -> None:
        self.said.append("killed")


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    used = {"seconds": 0.0}
    monkeypatch.setattr(watchdog, "_cpu_seconds", lambda pid: used["seconds"])
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda fd, number: None)
    return used


def look(child: FakeChild, dog: Watchdog, until: float, cpu: dict[str, float], share: float, start: float = 0.0) -> Any:
    """Look ten times a second; `share` of a CPU is used all the time. The time of the kill, or None."""
    for tenth in range(int(start * 10), int(until * 10)):
        cpu["seconds"] += share / 10
        dog.look([child], tenth / 10)  # type: ignore[list-item]
        if "killed" in child.said:
            return tenth / 10
    return None


def test_a_silent_idle_child_is_asked_for_its_stacks_and_killed_soon_after(cpu: dict[str, float]) -> None:
    child = FakeChild()
    killed = look(child, Watchdog(2.0), 10, cpu, share=0.0)
    assert 2.5 <= killed <= 2.7
    assert child.said[0].startswith("no sign of life for 2 s")


def test_one_that_worked_until_it_froze_is_killed_as_soon(cpu: dict[str, float]) -> None:
    child, dog = FakeChild(), Watchdog(2.0)
    assert look(child, dog, 0.9, cpu, share=2.0) is None
    assert look(child, dog, 10, cpu, share=0.0, start=0.9) <= 3.7


def test_a_silent_busy_child_is_left_alone_ten_times_as_long(cpu: dict[str, float]) -> None:
    child = FakeChild()
    assert 20.0 <= look(child, Watchdog(2.0), 30, cpu, share=1.0) <= 20.7


def test_one_that_reports_lives(cpu: dict[str, float]) -> None:
    child, dog = FakeChild(), Watchdog(2.0)
    for second in range(30):
        child.speak(second + 2)
        dog.look([child], float(second))  # type: ignore[list-item]
    assert not child.said


def test_without_a_limit_nobody_is_killed(cpu: dict[str, float]) -> None:
    assert look(FakeChild(), Watchdog(0.0), 60, cpu, share=0.0) is None
