"""How long a server takes to start, phase by phase, and the memory it then holds.

`python bench/startup.py [MODEL]` runs `quire serve` several times, watches its HTTP port from the moment
of spawning, and asks for a first token as soon as it is ready. Knows the server by its HTTP API only.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

sys.path.append(str(Path(__file__).resolve().parent.parent))

from bench.client import LoadClient, Target, run_on_loop
from bench.deployment import ROOT, free_port
from bench.recording import medians, record, table, write
from bench.response import monotonic

_POLL_SECONDS = 0.01


class Start:
    """One server from spawn to its first token. Raises RuntimeError with its last lines when it does not come up."""

    _process: subprocess.Popen[bytes]
    _log: IO[bytes]

    def __init__(self, flags: Sequence[str], within_seconds: float) -> None:
        self._flags = flags
        self._spawned = 0.0
        self._within = within_seconds
        self.phases: dict[str, float] = {}
        """Seconds from spawn to the end of each phase, in order."""
        self.memory_mib: dict[str, float] = {}

    async def run(self) -> None:
        port = free_port()
        command = [sys.executable, "-m", "quire", "serve", *self._flags, "--port", str(port)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with tempfile.TemporaryDirectory(prefix="quire-bench-") as folder, tempfile.TemporaryFile() as log:
            self._spawned = monotonic()
            self._process = subprocess.Popen(
                [*command, "--run-dir", f"{folder}/run"], env=environment, stdout=log, stderr=log
            )
            self._log = log
            client = LoadClient(Target.parse(f"http://127.0.0.1:{port}"))
            try:
                await self._watch(client)
                self.memory_mib = memory_mib(self._process.pid)
            finally:
                client.close()
                self._process.send_signal(signal.SIGTERM)
                stopping = monotonic()
                try:
                    self._process.wait(20)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
            self.phases["stopped after SIGTERM"] = monotonic() - stopping

    async def _watch(self, client: LoadClient) -> None:
        """Note when the port answers, what is then waited for, when it is ready, when the first token is there."""
        awaited = ""
        while True:
            answer = await client.get("/ready")
            if answer.status == 200:
                break
            if answer.status:
                self._note("HTTP port answers")
                waiting = _awaited(answer.last_frame)
                if waiting != awaited:
                    if awaited:
                        self._note(f"waited for {awaited}")
                    awaited = waiting
            self._check()
            time.sleep(_POLL_SECONDS)
        self._note("HTTP port answers")
        self._note("ready")
        models = json.loads((await client.get("/v1/models")).last_frame)
        body = {"model": models["data"][0]["id"], "prompt": "one two three", "max_tokens": 1, "temperature": 0}
        answer = await client.post("/v1/completions", json.dumps(body).encode())
        if answer.error:
            raise RuntimeError(answer.error)
        self._note("first token")

    def _note(self, phase: str) -> None:
        self.phases.setdefault(phase, monotonic() - self._spawned)

    def _check(self) -> None:
        if self._process.poll() is None and monotonic() - self._spawned < self._within:
            return
        self._log.seek(0)
        raise RuntimeError("the server is not ready:\n" + self._log.read()[-2000:].decode(errors="replace"))


def _awaited(body: bytes) -> str:
    """What /ready says is waited for, without numbers that change."""
    try:
        answer = json.loads(body)
    except ValueError:
        return ""
    text = str(answer.get("detail") or answer.get("error", {}).get("message", ""))
    text = text.removeprefix("The server is not ready: ").removeprefix("waiting for ").rstrip(".")
    return "".join("#" if letter.isdigit() else letter for letter in text)


def memory_mib(root: int) -> dict[str, float]:
    """Proportional set size of a process and all below it, by command, and together."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        children.setdefault(parent, []).append(int(stat.parent.name))
    found: dict[str, float] = {}
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        waiting += children.get(pid, [])
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue
        name = arguments[arguments.index("--name") + 1] if "--name" in arguments else "launcher"
        kib = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        found[name] = found.get(name, 0.0) + kib / 1024
    return {**found, "together": sum(found.values())}


def help_seconds() -> float:
    """Of `quire --help`."""
    begin = monotonic()
    command = [sys.executable, "-m", "quire", "--help"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, check=True)
    return monotonic() - begin


def main(argv: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(prog="startup.py", description="Time from spawning a server to its first token.")
    made.add_argument("--rounds", type=int, default=3, help="of which medians are reported (default: %(default)s)")
    made.add_argument("--within", type=float, default=300.0, help="seconds a start may take (default: %(default)s)")
    made.add_argument("--out", help="JSON file; a bare name goes to bench/results/")
    options, flags = made.parse_known_args(argv)
    rounds = []
    try:
        for _ in range(options.rounds):
            start = Start(flags, options.within)
            run_on_loop(start.run())
            rounds.append({"seconds": {"quire --help": help_seconds(), **start.phases}, "memory_mib": start.memory_mib})
    except RuntimeError as error:
        print(f"quire bench: {error}", file=sys.stderr)
        return 1
    middle: dict[str, Any] = medians(rounds)
    print(table(("", "seconds"), list(middle["seconds"].items())))
    print("\n" + table(("memory after the first token", "MiB"), list(middle["memory_mib"].items())))
    if options.out:
        recorded = record("startup", {"medians": middle, "rounds": rounds}, {"flags": flags, "rounds": options.rounds})
        print(f"\nwritten to {write(recorded, options.out)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
