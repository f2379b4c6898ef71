"""A server to be measured, with all processes below it: started, stopped short, set going again, ended.

Used by compare.py. Knows the server by its command line and its HTTP API only.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

from bench.client import LoadClient, Target, run_on_loop
from bench.deployment import free_port

_POLL_SECONDS = 0.25
_END_SECONDS = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """One command line, with {port} in it. Its methods raise RuntimeError with the log's end."""

    def __init__(self, name: str, command: str, folder: Path, within_seconds: float) -> None:
        self.name = name
        self.command = command
        self.model = ""
        self._log = folder / f"{name}.log"
        self._within = within_seconds
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    @property
    def is_started(self) -> bool:
        return self._process is not None

    def start(self) -> float:
        """Returns when a first token has come; seconds that took."""
        port, begin = free_port(), time.monotonic()
        self.url = f"http://127.0.0.1:{port}"
        words = shlex.split(self.command.replace("{port}", str(port)))
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        while not run_on_loop(self._answers()):
            self.check()
            if time.monotonic() - begin > self._within:
                raise RuntimeError(f"{self.name} is not ready after {self._within:.0f} s:\n{self._last_lines()}")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - begin

    async def _answers(self) -> bool:
        """Whether it gives a token; a port that answers may still be waiting for its model."""
        client = LoadClient(Target.parse(self.url, ""), keeps_alive=False, timeout_seconds=60.0)
        try:
            if (await client.get("/health")).error:
                return False
            models = await client.get("/v1/models")
            if models.error:
                return False
            self.model = json.loads(models.last_frame)["data"][0]["id"]
            body = {"model": self.model, "prompt": [300, 301], "max_tokens": 1, "temperature": 0, "stream": True}
            return not (await client.post("/v1/completions", json.dumps(body).encode())).error
        finally:
            client.close()

    def check(self) -> None:
        """Raises RuntimeError when it has ended."""
        if self._process is not None and self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with code {self._process.returncode}:\n{self._last_lines()}")

    def _last_lines(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])

    def pause(self) -> None:
        """Every process, the first one first, so that none sees another standing still."""
        self._signal(signal.SIGSTOP, self.process_ids())

    def resume(self) -> None:
        """The other way round."""
        self._signal(signal.SIGCONT, self.process_ids()[::-1])

    def end(self) -> None:
        """By SIGTERM to the first process; what is left after a while is killed."""
        if self._process is None:
            return
        below = self.process_ids()
        self.resume()
        self._signal(signal.SIGTERM, [self._process.pid])
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        left = set(below) & set(_session_and_below(self._process.pid, below))
        self._signal(signal.SIGKILL, sorted(left))
        self._process.wait()
        self._process = None

    @staticmethod
    def _signal(number: signal.Signals, pids: list[int]) -> None:
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def process_ids(self) -> list[int]:
        """Of the command and of all below it, also those with a session of their own; parents first."""
        return _session_and_below(self._process.pid, []) if self._process else []

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far, and of those that have ended and were waited for."""
        return sum(_cpu_seconds(pid) for pid in self.process_ids())


def _processes() -> dict[int, tuple[int, int]]:
    """Parent and session of every process."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found[int(stat.parent.name)] = int(fields[1]), int(fields[3])
    return found


def _session_and_below(root: int, known: list[int]) -> list[int]:
    """`root`, its descendants, those of its session, and those of `known` that are still there; parents first."""
    processes = _processes()
    found, waiting = [], [root, *known, *(pid for pid, (_, session) in processes.items() if session == root)]
    while waiting:
        pid = waiting.pop(0)
        if pid in processes and pid not in found:
            found.append(pid)
            waiting += [child for child, (parent, _) in processes.items() if parent == pid]
    return found


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS


class MachineUse:
    """CPU time since it was made: of the whole machine, of a server, and of this process."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._begin = self._now()

    def _now(self) -> tuple[float, float, float]:
        """Seconds of all CPUs together, of them busy, and busy for the server or this process."""
        ticks = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
        idle = ticks[3] + ticks[4]
        own = self._server.cpu_seconds() + time.process_time()
        return sum(ticks) / _TICKS, (sum(ticks) - idle) / _TICKS, own

    def shares(self) -> dict[str, float]:
        """Of all CPUs' time: what the server and the client used, and what others took (steal included)."""
        whole, busy, own = (now - begin for now, begin in zip(self._now(), self._begin, strict=True))
        whole = max(whole, 1e-9)
        return {"measured": own / whole, "others": max(0.0, busy - own) / whole}
