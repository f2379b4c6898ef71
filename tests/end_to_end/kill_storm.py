"""The kill storm: tokenizers killed again and again under a steady load of streams, and how long streams pause for it.

Used by test_kill_storm.py (a short form, where no time decides) and scripts/killstorm (20 kills within a minute).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msgspec import Struct

from bench.client import LoadClient, Target
from bench.response import Answer
from tests.end_to_end.faulty_load import CHAT, bodies, load, pauses, percentile
from tests.end_to_end.history import Content, Verdict, content, judge
from tests.end_to_end.kill_matrix import is_alive
from tests.end_to_end.running_server import RunningServer, serving

NUM_STREAMS = 16
OUTPUT_TOKENS = 64
PAUSE_SECONDS = 0.25
"""Promised of the 99th percentile."""


class Outcome(Struct):
    """What a storm showed."""

    verdict: Verdict
    kills: list[float]
    """When, monotonic seconds."""
    pauses: list[float]
    """Of each stream at each kill: how much longer than usual it waited."""
    seconds: float


def storm(server: RunningServer, num_kills: int, seconds: float, reference: list[Content]) -> Outcome:
    """Kills evenly over a time, the tokenizer that has been there for longest first."""
    return asyncio.run(_storm(server, num_kills, seconds, reference))


async def _storm(server: RunningServer, num_kills: int, seconds: float, reference: list[Content]) -> Outcome:
    client = LoadClient(Target.parse(server.url), keeps_texts=True, timeout_seconds=60)
    asked = bodies(NUM_STREAMS, 0, OUTPUT_TOKENS)
    answers: list[tuple[int, Answer]] = []
    is_over = False

    async def keep_asking(number: int) -> None:
        while not is_over:
            answers.append((number, await client.post(CHAT, asked[number])))

    began = time.monotonic()
    tasks = [asyncio.ensure_future(keep_asking(number)) for number in range(len(asked))]
    kills = []
    for number in range(num_kills):
        await asyncio.sleep(max(0.0, began + (number + 0.5) * seconds / num_kills - time.monotonic()))
        if (victim := _oldest_tokenizer(server)) is not None:
            kills.append(time.monotonic())
            os.kill(victim, signal.SIGKILL)
    await asyncio.sleep(max(0.0, began + seconds - time.monotonic()))
    is_over = True
    await asyncio.gather(*tasks)
    client.close()
    verdict = judge(
        [asked[number] for number, _ in answers], [answer for _, answer in answers], [reference[n] for n, _ in answers]
    )
    given = [answer for _, answer in answers]
    struck = [pause for kill in kills for pause in pauses(given, kill, kill + 1.0)]
    return Outcome(verdict, kills, struck, time.monotonic() - began)


def _oldest_tokenizer(server: RunningServer) -> int | None:
    """Its pid, if another one is there to take over; what is promised is promised of two."""
    pids = [pid for name, pid in server.pids().items() if name.startswith("tokenizer-") and is_alive(pid)]
    ready = server.samples()
    names = [name for name in ready if name.startswith('quire_process_ready{name="tokenizer-') and ready[name]]
    started = {pid: Path(f"/proc/{pid}").stat().st_mtime for pid in pids}
    return min(pids, key=lambda pid: started[pid]) if len(names) > 1 and len(pids) > 1 else None


def reference_of(server: RunningServer) -> list[Content]:
    """What is answered without any kill."""
    return [content(answer) for answer in asyncio.run(load(server, bodies(NUM_STREAMS, 0, OUTPUT_TOKENS)))]


def told(outcome: Outcome) -> str:
    verdict, waits = outcome.verdict, outcome.pauses
    return (
        f"{len(outcome.kills)} tokenizers killed within {outcome.seconds:.0f} s: {verdict.num_same} requests the same,"
        f" {verdict.num_broken} broken, {verdict.num_different} wrong; streams paused"
        f" {percentile(waits, 0.5) * 1e3:.0f} ms (median), {percentile(waits, 0.99) * 1e3:.0f} ms (99th percentile,"
        f" promised {PAUSE_SECONDS * 1e3:.0f}), {max(waits, default=0.0) * 1e3:.0f} ms (longest)"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/killstorm", description="Kill tokenizers again and again.")
    parser.add_argument("--kills", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--seconds", type=float, default=60.0, help="within which (default 60)")
    parser.add_argument("--tokenizers", type=int, default=3, help="that the server has (default 3)")
    options = parser.parse_args(argv)
    with serving("--tokenizers", str(options.tokenizers), "--frontends", "1", "--dtype", "float32") as server:
        outcome = storm(server, options.kills, options.seconds, reference_of(server))
    for remark in outcome.verdict.remarks[:3]:
        print(f"  {remark[:2000]}")
    print(told(outcome))
    is_quick = percentile(outcome.pauses, 0.99) <= PAUSE_SECONDS
    is_whole = not outcome.verdict.num_broken and not outcome.verdict.num_different
    return 0 if is_quick and is_whole and len(outcome.kills) == options.kills else 1


if __name__ == "__main__":
    sys.exit(main())
