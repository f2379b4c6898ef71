"""The real services as processes, with the fake worker in place of a model, for as long as a benchmark lasts.

Started by the same command lines as the launcher's. Knows how to wait until they are ready, what CPU
time they have used, and how to end them.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent


class Deployment:
    """A context: `processes` by name while inside it. Its methods raise RuntimeError when a service has ended."""

    def __init__(
        self,
        frontends: int = 1,
        tokenizers: int = 1,
        engine_flags: Sequence[str] = (),
        worker_flags: Sequence[str] = (),
        model: str | None = None,
    ) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="quire-bench-")
        self.path = Path(self._directory.name)
        self.run_dir = self.path / "run"
        self.port = free_port() if frontends else 0
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._lines = _command_lines(frontends, tokenizers, self.port, engine_flags, worker_flags, model)

    def __enter__(self) -> Deployment:
        self.run_dir.mkdir(mode=0o700)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for name, (module, flags) in self._lines.items():
            command = [sys.executable, "-m", f"quire.services.{module}", "--run-dir", str(self.run_dir), "--name", name]
            command += ["--parent-pid", str(os.getpid()), *flags]
            with open(self.log(name), "wb") as log:
                self.processes[name] = subprocess.Popen(
                    command, env=environment, cwd=self.path, stderr=log, stdout=log, stdin=subprocess.DEVNULL
                )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._directory.cleanup()

    def log(self, name: str) -> Path:
        return self.path / f"{name}.log"

    def check(self) -> None:
        """Raises RuntimeError when a service has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                lines = self.log(name).read_text(errors="replace").splitlines()
                raise RuntimeError(f"{name} ended with code {process.returncode}:\n" + "\n".join(lines[-20:]))

    def cpu_seconds(self) -> dict[str, float]:
        """CPU time of every process so far, all threads, and of this one as `client`."""
        used = {name: cpu_seconds(process.pid) for name, process in self.processes.items()}
        return {**used, "client": cpu_seconds(os.getpid())}


def _command_lines(
    frontends: int, tokenizers: int, port: int, engine: Sequence[str], worker: Sequence[str], model: str | None
) -> dict[str, tuple[str, Sequence[str]]]:
    """(module, flags) by service name."""
    of_model = ["--model", model] if model else []
    lines: dict[str, tuple[str, Sequence[str]]] = {"worker-0-0": ("worker.fake", [*of_model, *worker])}
    lines["engine-0"] = ("engine", engine)
    lines |= {f"tokenizer-{number}": ("tokenizer", of_model) for number in range(tokenizers)}
    lines |= {f"frontend-{number}": ("frontend", ["--port", str(port)]) for number in range(frontends)}
    return lines


def free_port() -> int:
    """A TCP port that nobody had a moment ago."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def cpu_seconds(pid: int) -> float:
    """Of one process, by the scheduler's nanoseconds; of a thread that has ended nothing is counted."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e9
