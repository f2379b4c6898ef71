"""The soak: mixed work for minutes, first with faults, then without; nothing fails, is held, or has grown at the end.

Streams, plain answers, several choices, constraints, clients that leave, slow readers; every few seconds a tokenizer,
the engine or the worker is killed, or restarted on purpose. Memory is judged in the second part, in which nobody dies.
Used by test_soak.py (seconds) and scripts/soak (minutes).
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
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.client import LoadClient, Target
from bench.response import Answer
from quire.services.launcher.restart import restart
from tests.end_to_end.every_size import constrained, steps_of_every_size
from tests.end_to_end.faulty_load import CHAT, bodies, load
from tests.end_to_end.history import Content, content, judge
from tests.end_to_end.running_server import RunningServer, serving
from tests.end_to_end.soak_outcome import MOST_GROWTH, Outcome, Sample, sample, told

NUM_STREAMS, NUM_PLAIN = 24, 8
OUTPUT_TOKENS = 48
SERVER = ("--tokenizers", "2", "--frontends", "2", "--dtype", "float32", "--kv-cache-memory", "16MiB")
FAULT_SECONDS = 16.0
"""Between two faults: an engine or worker may crash no more than four times a minute."""
FAULTS = ("kill tokenizer", "kill engine", "restart tokenizer", "kill tokenizer", "kill worker", "restart engine")
_SAMPLE_SECONDS = 2.0
_LEAVERS, _SLOW_READERS, _CONSTRAINED = 3, 2, 1


class Soak:
    """One run on a server that is ready: `fault_seconds` with faults, `quiet_seconds` without."""

    def __init__(
        self,
        server: RunningServer,
        reference: list[Content],
        fault_seconds: float,
        quiet_seconds: float,
        seed: int = 0,
    ) -> None:
        self._server = server
        self._reference = reference
        self._bodies = bodies(NUM_STREAMS, NUM_PLAIN, OUTPUT_TOKENS)
        self._fault_seconds = fault_seconds
        self._quiet_seconds = quiet_seconds
        self._random = random.Random(seed)
        self._answers: list[tuple[int, Answer]] = []
        self._faults: dict[str, int] = {}
        self._samples: list[Sample] = []
        self._num_left = 0
        self._num_constrained = 0
        self._end = 0.0

    def run(self) -> Outcome:
        return asyncio.run(self._run())

    async def _run(self) -> Outcome:
        began = time.monotonic()
        await self._warm_up()
        files = sample(self._server).num_files
        if self._fault_seconds:
            await self._work_for(self._fault_seconds, self._keep_breaking)
        if self._quiet_seconds:
            if self._faults:
                await self._warm_up()  # of those that were started again
            await self._work_for(self._quiet_seconds, self._keep_watching)
        verdict = judge(
            [self._bodies[number] for number, _ in self._answers],
            [answer for _, answer in self._answers],
            [self._reference[number] for number, _ in self._answers],
        )
        after = sample(self._server).num_files
        seconds = time.monotonic() - began
        return Outcome(
            verdict, seconds, self._faults, self._num_left, self._num_constrained, self._samples, files, after
        )

    async def _work_for(self, seconds: float, beside: Callable[[], Coroutine[None, None, None]]) -> None:
        self._end = time.monotonic() + seconds
        async with self._client() as client:
            await asyncio.gather(*self._work(client), beside())

    @contextlib.asynccontextmanager
    async def _client(self) -> AsyncIterator[LoadClient]:
        """Closed at the end; then all is well and every block is free."""
        client = LoadClient(Target.parse(self._server.url), keeps_texts=True, timeout_seconds=120)
        try:
            yield client
        finally:
            client.close()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(None, self._server.until_healthy)
        await loop.run_in_executor(None, self._server.until_idle, 60)

    async def _warm_up(self) -> None:
        async with self._client() as client:
            for seed in range(2):  # twice, so that every block of the cache has been written
                for path, body in steps_of_every_size(seed):
                    answer = await client.post(path, body)
                    if answer.status != 200:
                        raise AssertionError(f"the warm-up was answered {answer.status}: {answer.last_frame[:300]!r}")
            await asyncio.gather(*(client.post(*constrained(number)) for number in range(16)))

    # --- work -------------------------------------------------------------------------------------------

    def _work(self, client: LoadClient) -> Iterable[Coroutine[None, None, None]]:
        """All that goes on at once until the end."""
        yield from (self._keep_asking(client, number) for number in range(len(self._bodies)))
        yield from (self._keep_leaving(number) for number in range(_LEAVERS))
        yield from (self._keep_reading_slowly(number) for number in range(_SLOW_READERS))
        yield from (self._keep_constraining(client) for _ in range(_CONSTRAINED))

    async def _keep_constraining(self, client: LoadClient) -> None:
        """Answers that follow a schema or a regex: they come through the helper process and the engine's grammars."""
        while time.monotonic() < self._end:
            answer = await client.post(*constrained(self._num_constrained))
            if answer.status not in (200, 503):
                raise AssertionError(f"a constrained request was answered {answer.status}: {answer.last_frame!r}")
            self._num_constrained += answer.status == 200
            await asyncio.sleep(0.3)

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
        pause = min(FAULT_SECONDS, self._fault_seconds / 5)
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
            self._samples.append(sample(self._server))
            await asyncio.sleep(min(_SAMPLE_SECONDS, self._quiet_seconds / 20))


def soak(server: RunningServer, fault_seconds: float, quiet_seconds: float = 0.0) -> Outcome:
    """The reference first, then the soak."""
    asked = bodies(NUM_STREAMS, NUM_PLAIN, OUTPUT_TOKENS)
    reference = [content(answer) for answer in asyncio.run(load(server, asked))]
    server.until_idle()
    return Soak(server, reference, fault_seconds, quiet_seconds).run()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/soak", description="Mixed work and faults for a long time.")
    parser.add_argument("--minutes", type=float, default=10.0, help="with faults (default 10; 0: none)")
    parser.add_argument(
        "--quiet-minutes", type=float, default=10.0, help="after that without; memory is judged by them (default 10)"
    )
    options = parser.parse_args(argv)
    with serving(*SERVER) as server:
        outcome = soak(server, options.minutes * 60, options.quiet_minutes * 60)
    for remark in outcome.verdict.remarks[:3]:
        print(f"  {remark[:2000]}")
    print(told(outcome))
    for name in outcome.growing():
        print(f"  {name} grows by more than {MOST_GROWTH:g} MiB/h")
    is_whole = not outcome.verdict.num_broken and not outcome.verdict.num_different
    return 0 if is_whole and not outcome.grown_files() and not outcome.growing() else 1


if __name__ == "__main__":
    sys.exit(main())
