"""A launcher that is stopped for good is ended; one that goes on, or was stopped with everybody else, is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from quire.services.frontend.frozen_launcher import FrozenLauncher, _is_stopped


@pytest.fixture
def launcher() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    assert _is_stopped(process.pid)


def look_from(frozen: FrozenLauncher, begin: float, end: float) -> None:
    """Every half second."""
    for half in range(int(2 * begin), int(2 * end) + 1):
        frozen.look(half / 2)


def test_one_that_stays_stopped_is_killed_after_the_limit(launcher: subprocess.Popen[bytes]) -> None:
    frozen = FrozenLauncher(launcher.pid, 3.0)
    look_from(frozen, 1, 20)
    stop(launcher)
    look_from(frozen, 20.5, 23)
    assert launcher.poll() is None
    look_from(frozen, 23.5, 24)
    assert launcher.wait(60) == -signal.SIGKILL


def test_one_that_goes_on_in_time_is_left_alone(launcher: subprocess.Popen[bytes]) -> None:
    frozen = FrozenLauncher(launcher.pid, 3.0)
    for begin in (1, 10):
        stop(launcher)
        look_from(frozen, begin, begin + 2.5)
        launcher.send_signal(signal.SIGCONT)
        end = time.monotonic() + 60
        while _is_stopped(launcher.pid):
            assert time.monotonic() < end
            time.sleep(0.01)
        look_from(frozen, begin + 3, begin + 6)
    assert launcher.poll() is None


def test_the_time_in_which_we_were_stopped_ourselves_does_not_count(launcher: subprocess.Popen[bytes]) -> None:
    frozen = FrozenLauncher(launcher.pid, 3.0)
    stop(launcher)
    look_from(frozen, 1, 2)
    look_from(frozen, 900, 902.5)
    assert launcher.poll() is None and _is_stopped(launcher.pid)


@pytest.mark.parametrize("has_pid", [True, False])
def test_without_a_launcher_or_a_limit_nothing_is_done(launcher: subprocess.Popen[bytes], has_pid: bool) -> None:
    stop(launcher)
    look_from(FrozenLauncher(launcher.pid if has_pid else None, 0.0 if has_pid else 3.0), 1, 60)
    assert launcher.poll() is None and _is_stopped(launcher.pid)
