"""Tests of the registry: who is there is who holds a lock."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from quire.shared.run_directory import NameTakenError, RunDirectory, RunDirectoryError

HOLD = """
import sys, time
from quire.shared.run_directory import RunDirectory
directory = RunDirectory(sys.argv[1])
directory.register("engine-0").announce("ipc://somewhere")
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def directory(tmp_path):
    return RunDirectory(tmp_path / "run")


def start_holder(directory) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory.path)], stdout=subprocess.PIPE, text=True, env=_environment()
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def _environment() -> dict[str, str]:
    import quire

    return {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(quire.__file__))}


def test_a_service_is_listed_from_its_announcement_to_its_end(directory):
    registration = directory.register("tokenizer-0")
    assert directory.entries() == {}
    registration.announce("ipc://x")
    assert directory.entries()["tokenizer-0"].address == "ipc://x"
    assert directory.entries("engine") == {}
    registration.close()
    assert directory.entries() == {} and os.listdir(directory.path) == []


def test_a_killed_process_is_gone_at_once_and_its_name_is_free(directory):
    holder = start_holder(directory)
    entry = directory.entry("engine-0")
    assert entry is not None and entry.pid == holder.pid
    with pytest.raises(NameTakenError, match=f"pid {holder.pid}"):
        directory.register("engine-0")
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert holder.stdout is not None
    holder.stdout.close()
    assert directory.entry("engine-0") is None
    registration = directory.register("engine-0")
    registration.announce("ipc://again")
    assert directory.entries()["engine-0"].incarnation > entry.incarnation


def test_auto_takes_the_first_free_index(directory):
    first, second = directory.register("tokenizer-auto"), directory.register("tokenizer-auto")
    assert (first.name, second.name) == ("tokenizer-0", "tokenizer-1")
    first.close()
    assert directory.register("tokenizer-auto").name == "tokenizer-0"


def test_a_directory_open_to_others_is_refused(tmp_path):
    tmp_path.chmod(0o755)
    with pytest.raises(RunDirectoryError, match="0700"):
        RunDirectory(tmp_path)


def test_a_path_too_long_for_a_socket_is_refused(tmp_path):
    with pytest.raises(RunDirectoryError, match="bytes long"):
        RunDirectory(tmp_path / ("x" * 100))


def test_closing_twice_is_harmless_and_leaves_a_successor_alone(directory):
    first = directory.register("engine-0")
    first.close()
    second = directory.register("engine-0")
    second.announce("ipc://second")
    first.close()
    assert directory.entries()["engine-0"].address == "ipc://second"
