"""A supervisor with fake services (fake_service.py), run in a thread."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.services.launcher.child import Child, Ending
from quire.services.launcher.crash_policy import CrashPolicy
from quire.services.launcher.supervisor import Supervisor
from quire.services.launcher.topology import ServiceSpec
from quire.shared.config import LauncherConfig
from quire.shared.messages import Report

FAKE_SERVICE = Path(__file__).with_name("fake_service.py")
ROOT = Path(__file__).resolve().parents[3]
CHAIN = ("frontend-0", "tokenizer-0", "engine-0", "worker-0-0")


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.is_ready = threading.Event()
        self.endings: dict[str, tuple[Ending, bool]] = {}
        self.lines: list[str] = []
        self.given_up: list[str] = []
        self.restarts: list[tuple[str, float]] = []

    def started(self, child: Child) -> None: ...

    def reported(self, child: Child, report: Report) -> None: ...

    def printed(self, child: Child, line: str) -> None:
        self.lines.append(line)

    def ended(self, child: Child, ending: Ending, is_expected: bool) -> None:
        self.endings[child.name] = (ending, is_expected)

    def restarting(self, cause: str, delay_seconds: float) -> None:
        self.restarts.append((cause, delay_seconds))

    def gave_up(self, cause: str) -> None:
        self.given_up.append(cause)

    def ready(self, seconds: float) -> None:
        self.is_ready.set()

    def stopping(self) -> None: ...


class Deployment:
    """Fake services under a real supervisor; `modes` says how each behaves (by name; default serve)."""

    def __init__(
        self,
        path: Path,
        modes: dict[str, str],
        shutdown_timeout: float = 10.0,
        policy: CrashPolicy | None = None,
        chain: tuple[str, ...] = CHAIN,
    ) -> None:
        self.path = path
        self.modes = modes
        self._chain = chain
        self.trace = path.parent / "trace"
        self.recorder = Recorder()
        config = LauncherConfig(run_dir=str(path), shutdown_timeout=shutdown_timeout)
        self.supervisor = Supervisor(config, self.spec, self.recorder, policy)
        self.outcome: bool | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def spec(self, name: str) -> ServiceSpec:
        arguments = ("--run-dir", str(self.path), "--name", name, "--parent-pid", str(os.getpid()))
        mode = ("--mode", self.modes.get(name, "serve"), "--trace", str(self.trace))
        command = (sys.executable, str(FAKE_SERVICE), *arguments, *mode)
        return ServiceSpec(name, command, {"PYTHONPATH": str(ROOT)})

    def _run(self) -> None:
        self.outcome = self.supervisor.run([self.spec(name) for name in self._chain])

    def pid(self, name: str) -> int:
        return self.supervisor.children[name].pid

    def pid_or(self, name: str, other: int) -> int:
        """Its pid, or `other` while it is not there."""
        child = self.supervisor.children.get(name)
        return other if child is None else child.pid

    def outages(self, name: str) -> list[list[dict[str, Any]]]:
        """What a frontend was told, in order: services that stay down and why; how often which was started again."""
        file = Path(f"{self.trace}.outages.{name}")
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def stop_order(self) -> list[str]:
        return self.trace.read_text().split()

    def join(self, timeout_seconds: float = 60.0) -> None:
        self._thread.join(timeout_seconds)
        assert not self._thread.is_alive(), "the supervisor did not end"

    def close(self) -> None:
        if self._thread.is_alive():
            self.supervisor.ask_to_stop()
            self.supervisor.ask_to_stop()
            self.join()


Deploy = Callable[..., Deployment]


@pytest.fixture
def deploy(run_dir: Path) -> Iterator[Deploy]:
    """deploy(modes, ...) starts one; it is gone after the test."""
    started: list[Deployment] = []

    def start(modes: dict[str, str] | None = None, **settings: Any) -> Deployment:
        started.append(Deployment(run_dir, modes or {}, **settings))
        return started[-1]

    yield start
    for deployment in started:
        deployment.close()


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(is_so: Callable[[], bool], timeout_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to be"
        time.sleep(0.01)
