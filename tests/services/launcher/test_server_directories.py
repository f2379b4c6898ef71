"""Run directories of servers: one each, found again, swept when their server was killed."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.services.launcher.server_directories import ServerDirectory, live_servers
from quire.shared.run_directory import Registration, RunDirectory, RunDirectoryError, default_path


@pytest.fixture(autouse=True)
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # Not tmp_path: with several test processes it is too long for a socket in a directory below it.
    with tempfile.TemporaryDirectory(prefix="quire-test-") as path:
        monkeypatch.setenv("XDG_RUNTIME_DIR", path)
        yield Path(path)


@pytest.fixture
def launcher() -> Iterator[tuple[ServerDirectory, Registration]]:
    directory = ServerDirectory(None)
    registration = directory.registry.register("launcher-0")
    registration.announce("ipc://somewhere")
    yield directory, registration
    registration.close()


def test_two_servers_have_two_directories(launcher: tuple[ServerDirectory, Registration]) -> None:
    other = ServerDirectory(None)
    assert other.path != launcher[0].path
    assert other.path.stat().st_mode & 0o777 == 0o700
    assert live_servers() == [launcher[0].path]


def test_a_directory_that_a_server_holds_is_refused(launcher: tuple[ServerDirectory, Registration]) -> None:
    with pytest.raises(RunDirectoryError, match=rf"held by another server \(pid {os.getpid()}\)"):
        ServerDirectory(str(launcher[0].path))


def test_a_directory_of_ours_is_removed_and_a_given_one_stays(runtime: Path) -> None:
    ours, given = ServerDirectory(None), ServerDirectory(str(runtime / "given"))
    for directory in (ours, given):
        (directory.path / "worker-0-0").touch()
        (directory.path / "worker-0-0.sock").touch()
        directory.remove(["worker-0-0", "engine-0"])
    assert not ours.path.exists()
    assert list(given.path.iterdir()) == []


def test_what_a_killed_server_left_is_swept_by_the_next(launcher: tuple[ServerDirectory, Registration]) -> None:
    stale = RunDirectory(default_path().with_name(default_path().name + "-killed"))
    (stale.path / "engine-0").touch()
    (stale.path / "engine-0.sock").touch()
    fresh = RunDirectory(default_path().with_name(default_path().name + "-fresh"))
    long_ago = time.time() - 3600
    os.utime(stale.path, (long_ago, long_ago))
    os.utime(launcher[0].path, (long_ago, long_ago))
    ServerDirectory(None)
    assert not stale.path.exists()
    assert fresh.path.exists()
    assert launcher[0].path.exists()
