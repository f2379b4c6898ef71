"""`quire serve` with the demo model and real services: start, stop, crash, and what is left behind."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.services.launcher.scale import scale

from .conftest import ROOT, is_alive, wait_until

READY_SECONDS = 120.0


class Serve:
    """A `quire serve` process and its output."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.run_dir = folder / "run"
        self._log = folder / "log"
        self._connections: list[http.client.HTTPConnection] = []
        command = [sys.executable, "-m", "quire", "serve", "--port", "0", "--run-dir", str(self.run_dir)]
        command += ["--threads", "1", *flags]  # tests share the machine; spinning threads do not
        with self._log.open("wb") as log:
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd="/tmp")

    @property
    def output(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def last_line(self) -> str:
        return self.output.rstrip().rpartition("\n")[2]

    def wait_until_ready(self) -> None:
        def is_ready() -> bool:
            assert self.process.poll() is None, self.output
            return "Quire is ready at" in self.output

        wait_until(is_ready, READY_SECONDS)

    @property
    def port(self) -> int:
        found = re.search(r"Quire is ready at http://127\.0\.0\.1:(\d+) in", self.output)
        assert found is not None
        return int(found[1])

    def pids(self) -> dict[str, int]:
        """Of the services, by name."""
        files = [file for file in self.run_dir.iterdir() if file.suffix != ".sock"]
        return {file.name: json.loads(file.read_text())["pid"] for file in files}

    def ask(self, path: str, body: dict | None = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self._connections.append(connection)
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
        return connection.getresponse()

    def stream(self, max_tokens: int) -> http.client.HTTPResponse:
        messages = [{"role": "user", "content": "Count from 1 to 20"}]
        model = json.loads(self.ask("/v1/models").read())["data"][0]["id"]
        sampling = {"temperature": 0, "max_tokens": max_tokens, "ignore_eos": True}
        return self.ask("/v1/chat/completions", {"model": model, "messages": messages, "stream": True, **sampling})

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Serve]:
    """With the flags that a test gives by indirect parametrization, if any."""
    started = Serve(tmp_path, *getattr(request, "param", ()))
    try:
        started.wait_until_ready()
        yield started
    finally:
        started.close()


def test_a_stop_finishes_the_streams_and_leaves_nothing(served: Serve) -> None:
    assert re.search(r"worker-0-0 +\d+\.\d\d s", served.output)
    assert "weights" in served.output
    pids = served.pids()
    assert {name.partition("-")[0] for name in pids} == {"launcher", "frontend", "tokenizer", "engine", "worker"}
    response = served.stream(max_tokens=120)
    assert response.status == 200
    assert served.stop() == 0
    assert response.read().endswith(b"data: [DONE]\n\n")
    assert not any(is_alive(pid) for pid in pids.values())
    assert list(served.run_dir.iterdir()) == []


@pytest.mark.parametrize("name", ["worker-0-0", "engine-0", "tokenizer-0", "frontend-0"])
@pytest.mark.parametrize("served", [("--no-restart",)], indirect=True)
def test_without_restarts_a_killed_service_ends_the_server_with_its_cause(served: Serve, name: str) -> None:
    pids = served.pids()
    response = served.stream(max_tokens=4000)
    assert response.status == 200
    os.kill(pids[name], signal.SIGKILL)
    assert served.process.wait(60) == 1
    assert served.last_line.startswith("quire: stopped: ")
    assert name in served.last_line
    assert "killed by SIGKILL" in served.last_line
    if name != "frontend-0":
        assert b'"error"' in response.read()
    assert not any(is_alive(pid) for pid in pids.values())
    assert list(served.run_dir.iterdir()) == []


def test_a_killed_launcher_takes_everything_with_it(served: Serve) -> None:
    pids = served.pids()
    served.process.kill()
    served.process.wait()
    wait_until(lambda: not any(is_alive(pid) for pid in pids.values()))


def test_tokenizers_come_and_go_under_a_stream(served: Serve) -> None:
    run_dir = ["--run-dir", str(served.run_dir)]
    assert scale(["tokenizer=3", *run_dir]) == 0
    response = served.stream(max_tokens=250)
    assert scale(["tokenizer=1", *run_dir]) == 0
    assert response.read().endswith(b"data: [DONE]\n\n")
    assert sorted(name for name in served.pids() if name.startswith("tokenizer")) == ["tokenizer-0"]
    assert served.stop(signal.SIGINT) == 0


def test_too_little_memory_for_the_kv_cache_is_the_last_line(tmp_path: Path) -> None:
    started = Serve(tmp_path, "--kv-cache-memory", "1KiB")
    try:
        assert started.process.wait(READY_SECONDS) == 1
        assert "--kv-cache-memory" in started.last_line
    finally:
        started.close()


def test_a_run_directory_of_a_live_server_is_refused(served: Serve, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    other = Serve(second, "--run-dir", str(served.run_dir))
    try:
        assert other.process.wait(60) == 1
        assert "is held by another server" in other.last_line
    finally:
        other.close()
