"""A real server for end-to-end tests: `quire serve` as a user starts it, on a free port, in its own run directory."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
READY_SECONDS = 120
"""Only a bound for a server that never gets ready; no test measures time."""


class RunningServer:
    """A started server; `output` grows with what it prints."""

    def __init__(self, *argv: str, environment: dict[str, str] | None = None) -> None:
        self.run_dir = Path(tempfile.mkdtemp(prefix="quire-test-"))
        command = [sys.executable, "-m", "quire", "serve", *argv, "--port", "0", "--run-dir", str(self.run_dir / "run")]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={"QUIRE_THREADS": "1", **os.environ, **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._url: str | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            found = re.search(r"ready at (http://\S+)", line)
            if found:
                self._url = found.group(1)

    @property
    def url(self) -> str:
        assert self._url is not None
        return self._url

    def until_ready(self) -> RunningServer:
        end = time.monotonic() + READY_SECONDS
        while self._url is None:
            assert self.process.poll() is None, f"the server ended:\n{self.output}"
            assert time.monotonic() < end, f"the server is not ready:\n{self.output}"
            time.sleep(0.02)
        return self

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as response:
            return response.read()

    def samples(self) -> dict[str, float]:
        """/metrics, by sample name without the model_name label."""
        found = {}
        for line in self.get("/metrics").decode().splitlines():
            if line and not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                name = re.sub(r'model_name="[^"]*",?', "", name).replace("{}", "").replace(",}", "}")
                found[name] = float(value)
        return found

    def until_idle(self, seconds: float = 60) -> None:
        """Until a report says that no KV block is held and nothing runs or waits."""
        end = time.monotonic() + seconds
        while True:
            samples = self.samples()
            busy = {
                name: samples[name]
                for name in ('quire_kv_blocks{state="used"}', "vllm:num_requests_running", "vllm:num_requests_waiting")
                if samples.get(name, 1.0)
            }
            if not busy:
                return
            assert time.monotonic() < end, f"still busy: {busy}"
            time.sleep(0.1)

    def until_healthy(self, seconds: float = 60) -> None:
        """Until /health is 200, as after a service was lost."""
        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError):
                self.get("/health")
                return
            assert time.monotonic() < end, f"the server is not healthy:\n{self.output}"
            time.sleep(0.05)

    def pids(self) -> dict[str, int]:
        """Service name -> pid, of all that are registered."""
        found = {}
        for file in (self.run_dir / "run").iterdir():
            if "." not in file.name and file.stat().st_size:
                with contextlib.suppress(ValueError):
                    found[file.name] = json.loads(file.read_bytes())["pid"]
        return found

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"the server does not stop:\n{self.output}") from None
        self._reader.join(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@contextlib.contextmanager
def serving(*argv: str, environment: dict[str, str] | None = None) -> Iterator[RunningServer]:
    """A ready server, stopped at the end."""
    server = RunningServer(*argv, environment=environment)
    try:
        yield server.until_ready()
    finally:
        server.stop()
