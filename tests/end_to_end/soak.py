"""The soak: mixed work and faults for minutes; at the end nothing failed, nothing is held, nothing has grown.

Streams, plain answers, several choices, clients that leave, slow readers; every few seconds a tokenizer, the engine or
the worker is killed, or restarted on purpose. Used by test_soak.py (20 seconds) and scripts/soak (minutes).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msgspec import Struct

from bench.client import LoadClient, Target
from bench.response import Answer
from quire.services.launcher.restart import restart
from tests.end_to_end.faulty_load import CHAT, bodies, load
from tests.end_to_end.history import Content, Verdict, content, judge
from tests.end_to_end.running_server import RunningServer, serving

NUM_STREAMS, NUM_PLAIN = 24, 8
OUTPUT_TOKENS = 48
SERVER = ("--tokenizers", "2", "--frontends", "2", "--dtype", "float32", "--kv-cache-memory", "16MiB")
FAULT_SECONDS = 16.0
"""Between two faults: an engine or worker may crash no more than four times a minute."""
FAULTS = ("kill tokenizer", "kill engine", "restart tokenizer", "kill tokenizer", "kill worker", "restart engine")
_SAMPLE_SECONDS = 2.0
_LEAVERS, _SLOW_READERS = 3, 2


class Sample(Struct):
    """What the processes held at one time; by pid, since a successor begins anew."""

    at: float
    resident_bytes: dict[int, int]
    num_files: dict[str, int]
    pids: dict[str, int]


class Outcome(Struct):
    """What a soak showed."""

    verdict: Verdict
    seconds: float
    faults: dict[str, int]
    num_left: int
    """Requests whose clients went away."""
    samples: list[Sample]
    files_before: dict[str, int]
    files_after: dict[str, int]

    def grown_files(self, slack: int = 8) -> dict[str, tuple[int, int]]:
        """Services that hold more descriptors at the end than at the beginning: before, after."""
        before, after = self.files_before, self.files_after
        return {name: (before[name], after[name]) for name in before if after.get(name, 0) > before[name] + slack}

    def slopes(self, warm_up_share: float = 0.3) -> dict[str, float]:
        """MiB an hour of resident memory, by least squares over the longest life after the warm-up, by service."""
        found = {}
        late = self.samples[int(len(self.samples) * warm_up_share) :]
        names = {pid: name for one in late for name, pid in one.pids.items()}
        for pid, name in names.items():
            points = [(one.at, one.resident_bytes[pid]) for one in late if pid in one.resident_bytes]
            if len(points) >= 3 and len(points) >= found.get(name, (0, 0.0))[0]:
                found[name] = (len(points), _slope(points) * 3600 / (1 << 20))
        return {name: slope for name, (_, slope) in sorted(found.items())}


def _slope(points: Sequence[tuple[float, float]]) -> float:
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


class Soak:
    """One run on a server that is ready."""

    def __init__(self, server: RunningServer, reference: list[Content], seconds: float, seed: int = 0) -> None:
        self._server = server
        self._reference = reference
        self._bodies = bodies(NUM_STREAMS, NUM_PLAIN, OUTPUT_TOKENS)
        self._seconds = seconds
        self._random = random.Random(seed)
        self._answers: list[tuple[int, Answer]] = []
        self._faults: dict[str, int] = {}
        self._samples: list[Sample] = []
        self._num_left = 0
        self._end = 0.0

    def run(self) -> Outcome:
        return asyncio.run(self._run())

    async def _run(self) -> Outcome:
        began = time.monotonic()
        self._end = began + self._seconds
        files = self._sample(began).num_files
        client = LoadClient(Target.parse(self._server.url), keeps_texts=True, timeout_seconds=120)
        tasks = [self._keep_asking(client, number) for number in range(len(self._bodies))]
        tasks += [self._keep_leaving(number) for number in range(_LEAVERS)]
        tasks += [self._keep_reading_slowly(number) for number in range(_SLOW_READERS)]
        await asyncio.gather(*tasks, self._keep_breaking(), self._keep_watching())
        client.close()
        await asyncio.get_running_loop().run_in_executor(None, self._settle)
        verdict = judge(
            [self._bodies[number] for number, _ in self._answers],
            [answer for _, answer in self._answers],
            [self._reference[number] for number, _ in self._answers],
        )
        after = self._sample(time.monotonic()).num_files
        seconds = time.monotonic() - began
        return Outcome(verdict, seconds, self._faults, self._num_left, self._samples, files, after)

    def _settle(self) -> None:
        """Until all is well and every block is free."""
        self._server.until_healthy()
        self._server.until_idle(60)

    # --- work -------------------------------------------------------------------------------------------

    async def _keep_asking(self, client: LoadClient, number: int) -> None:
        while time.monotonic() < self._end:
            answer = await client.post(CHAT, self._bodies[number])
            if answer.status == 503 and not answer.frames:  # refused for now, as it should be: not accepted
                await asyncio.sleep(0.2)
                continue
            self._answers.append((number, answer))

    async def _keep_leaving(self, number: int) -> None:
        """Clients that go away: at once, after the headers, in mid-stream."""
        while time.monotonic() < self._end:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                async with self._connection(self._bodies[number]) as reader:
                    if self._random.random() < 0.7:
                        await reader.readexactly(self._random.choice((1, 400, 4000)))
            await asyncio.sleep(self._random.uniform(0.05, 0.3))

    async def _keep_reading_slowly(self, number: int) -> None:
        while time.monotonic() < self._end:
            with contextlib.suppress(OSError):
                async with self._connection(self._bodies[number]) as reader:
                    while await reader.read(256) and time.monotonic() < self._end:
                        await asyncio.sleep(0.02)

    @contextlib.asynccontextmanager
    async def _connection(self, body: bytes) -> AsyncIterator[asyncio.StreamReader]:
        """One request on a connection that is dropped at the end."""
        parts = urlsplit(self._server.url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 12)
        try:
            head = f"POST {CHAT} HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            yield reader
        finally:
            self._num_left += 1
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    # --- faults and watching ------------------------------------------------------------------------------

    async def _keep_breaking(self) -> None:
        loop = asyncio.get_running_loop()
        pause = min(FAULT_SECONDS, self._seconds / 5)
        number = 0
        await asyncio.sleep(pause / 2)
        while time.monotonic() < self._end - pause / 2:
            fault = FAULTS[number % len(FAULTS)]
            number += 1
            await loop.run_in_executor(None, self._break, fault)
            self._faults[fault] = self._faults.get(fault, 0) + 1
            await asyncio.sleep(pause)

    def _break(self, fault: str) -> None:
        what, _, kind = fault.partition(" ")
        self._server.until_healthy()
        if what == "restart":
            with contextlib.redirect_stdout(io.StringIO()):
                restart([kind, "--run-dir", str(self._server.run_dir / "run")])
        else:
            pids = [pid for name, pid in self._server.pids().items() if name.startswith(f"{kind}-")]
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._random.choice(sorted(pids)), signal.SIGKILL)

    async def _keep_watching(self) -> None:
        while time.monotonic() < self._end:
            self._samples.append(self._sample(time.monotonic()))
            await asyncio.sleep(min(_SAMPLE_SECONDS, self._seconds / 20))

    def _sample(self, now: float) -> Sample:
        pids = self._server.pids()
        resident: dict[int, int] = {}
        files: dict[str, int] = {}
        for name, pid in pids.items():
            with contextlib.suppress(OSError):
                pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
                resident[pid] = pages * os.sysconf("SC_PAGE_SIZE")
                files[name] = len(os.listdir(f"/proc/{pid}/fd"))
        return Sample(now, resident, files, pids)


def soak(server: RunningServer, seconds: float) -> Outcome:
    """The reference first, then the soak."""
    asked = bodies(NUM_STREAMS, NUM_PLAIN, OUTPUT_TOKENS)
    reference = [content(answer) for answer in asyncio.run(load(server, asked))]
    server.until_idle()
    return Soak(server, reference, seconds).run()


def told(outcome: Outcome) -> str:
    verdict = outcome.verdict
    faults = ", ".join(f"{count} x {fault}" for fault, count in outcome.faults.items())
    slopes = ", ".join(f"{name} {slope:+.1f}" for name, slope in outcome.slopes().items())
    return (
        f"{outcome.seconds:.0f} s, {faults}: {verdict.num_same} requests the same, {verdict.num_broken} broken,"
        f" {verdict.num_different} wrong, {outcome.num_left} left by their clients; every block is free\n"
        f"open files grown: {outcome.grown_files() or 'none'}\nresident memory, MiB/h: {slopes}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Mixed work and faults for a long time.")
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10)")
    options = parser.parse_args(argv)
    with serving(*SERVER) as server:
        outcome = soak(server, options.minutes * 60)
    for remark in outcome.verdict.remarks[:3]:
        print(f"  {remark[:2000]}")
    print(told(outcome))
    is_whole = not outcome.verdict.num_broken and not outcome.verdict.num_different
    return 0 if is_whole and not outcome.grown_files() else 1


if __name__ == "__main__":
    sys.exit(main())
