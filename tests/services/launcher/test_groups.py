"""Ranks of a group are lost and started as one, and their loss is one crash."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.services.launcher.crash_policy import CRASH_BUDGET, RestartOnLoss
from quire.services.launcher.supervisor import Supervisor
from quire.services.launcher.topology import ServiceSpec
from quire.shared.config import LauncherConfig

from .conftest import FAKE_SERVICE, ROOT, Recorder, wait_until

RANKS = ("worker-0-0", "worker-0-1", "worker-0-2")


class Group:
    """A supervisor with a tokenizer and three ranks, all of which do nothing."""

    def __init__(self, path: Path, modes: dict[str, str]) -> None:
        self.recorder = Recorder()
        self._path = path
        self._modes = modes
        config = LauncherConfig(run_dir=str(path), shutdown_timeout=1.0)
        self.supervisor = Supervisor(config, self.spec, self.recorder, RestartOnLoss())
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self.recorder.is_ready.wait(60)

    def spec(self, name: str) -> ServiceSpec:
        command = (sys.executable, str(FAKE_SERVICE), "--run-dir", str(self._path), "--name", name)
        command += ("--parent-pid", str(os.getpid()), "--mode", self._modes.get(name, "serve"))
        return ServiceSpec(name, command, {"PYTHONPATH": str(ROOT)}, "worker-0" if name in RANKS else "")

    def _run(self) -> None:
        self.supervisor.run([self.spec(name) for name in (*RANKS, "tokenizer-0")])

    def pids(self) -> dict[str, int]:
        return {name: child.pid for name, child in list(self.supervisor.children.items())}

    def close(self) -> None:
        self.supervisor.ask_to_stop()
        self.supervisor.ask_to_stop()
        self._thread.join(60)
        assert not self._thread.is_alive()


@pytest.fixture
def group(run_dir: Path) -> Iterator[Group]:
    made = Group(run_dir, {})
    yield made
    made.close()


def are_new(group: Group, old: dict[str, int]) -> bool:
    now = group.pids()
    children = group.supervisor.children
    return all(name in now and now[name] != old[name] and children[name].is_ready for name in RANKS)


def test_a_lost_rank_takes_its_group_with_it_and_all_come_back(group: Group) -> None:
    old = group.pids()
    os.kill(old["worker-0-1"], signal.SIGKILL)
    wait_until(lambda: are_new(group, old))
    assert group.pids()["tokenizer-0"] == old["tokenizer-0"]
    assert [cause.partition(" ")[0].rstrip(":") for cause, _ in group.recorder.restarts] == ["worker-0-1"]


def test_crashes_of_different_ranks_are_counted_together(group: Group) -> None:
    for number in range(CRASH_BUDGET):
        old = group.pids()
        assert not group.recorder.given_up
        os.kill(old[RANKS[number % 3]], signal.SIGKILL)
        if number < CRASH_BUDGET - 1:
            wait_until(lambda old=old: are_new(group, old))
    wait_until(lambda: not any(name in group.supervisor.children for name in RANKS))
    assert "tokenizer-0" in group.supervisor.children
    (cause,) = group.recorder.given_up
    assert "5 crashes within 60 s" in cause
