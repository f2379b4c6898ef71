"""Test of the chain over tcp with keys, each service in a run directory of its own, as on several hosts."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from running_server import READY_SECONDS, ROOT


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="quire-test-") as path:
        yield Path(path)


@contextlib.contextmanager
def services(folder: Path, ports: dict[str, int]) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    subprocess.run([sys.executable, "-m", "quire", "keys", str(folder / "keys")], cwd=ROOT, check=True)
    address = {kind: f"tcp://127.0.0.1:{port}" for kind, port in ports.items()}
    flags = {
        "worker": ["--name=worker-0-0", f"--listen={address['worker']}", "--threads=1"],
        "engine": [f"--listen={address['engine']}", f"--workers={address['worker']}"],
        "tokenizer": [f"--listen={address['tokenizer']}", f"--engine-address={address['engine']}"],
        "frontend": [f"--port={ports['frontend']}", f"--tokenizer-address={address['tokenizer']}", "--no-resume"],
    }
    running = {}
    for kind, own in flags.items():
        common = [f"--run-dir={folder / kind}", f"--key-file={folder / 'keys'}", "--log-level=warning"]
        command = [sys.executable, "-m", f"quire.services.{kind}", *common, *own]
        running[kind] = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        yield running
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait(60)


def ask(url: str) -> tuple[int, bytes]:
    body = {"messages": [{"role": "user", "content": "What is 7 plus 5?"}], "temperature": 0}
    request = urllib.request.Request(
        url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()
    except urllib.error.URLError:
        return 0, b""


def until(is_true) -> None:
    end = time.monotonic() + READY_SECONDS
    while not is_true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.1)


def test_the_chain_serves_over_tcp_and_notices_who_is_gone(folder: Path):
    ports = {kind: free_port() for kind in ("worker", "engine", "tokenizer", "frontend")}
    url = f"http://127.0.0.1:{ports['frontend']}"
    with services(folder, ports) as running:
        until(lambda: ask(url)[0] == 200)
        answer = json.loads(ask(url)[1])
        assert "12" in answer["choices"][0]["message"]["content"]
        running["engine"].terminate()
        assert running["engine"].wait(60) == 0
        until(lambda: ask(url)[0] == 503)
