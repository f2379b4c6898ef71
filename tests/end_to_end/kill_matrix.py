"""The kill matrix: each kind of process killed or frozen under load, and what clients, probes and machines see.

`run_row` is one fault on a fresh server: its load is run once without the fault (the reference) and once with
it. Used by test_kill_matrix.py (each row once) and scripts/killmatrix (many rounds, with a table at the end).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from msgspec import Struct

from bench.client import LoadClient, Target
from bench.response import Answer
from tests.end_to_end.running_server import RunningServer, serving

NUM_STREAMS, NUM_PLAIN = 32, 8
OUTPUT_TOKENS = 96
STALL_LIMIT = 2.0
"""Seconds; the default of 10 only takes longer."""
SERVER = ("--tokenizers", "2", "--frontends", "2", "--dtype", "float32", "--stall-limit", str(STALL_LIMIT))
_TOKENS_BEFORE_FAULT = 300
_LOAD_SECONDS = 60.0


class Row(Struct, frozen=True):
    """One fault, and what it may cost. Times in seconds; None: not at all."""

    name: str
    victims: tuple[str, ...]
    is_freeze: bool = False
    breaks_connections: bool = False
    """Those of the killed frontend; all others must be whole."""
    unready_within: float | None = None
    ready_within: float = 5.0


_AFTER_STALL = STALL_LIMIT + 1.0
ROWS = (
    Row("one tokenizer", ("tokenizer-0",), ready_within=3.0),
    Row("all tokenizers", ("tokenizer-0", "tokenizer-1"), unready_within=1.0),
    Row("one frontend", ("frontend-1",), breaks_connections=True, ready_within=2.0),
    Row("engine", ("engine-0",), unready_within=1.0),
    Row("worker", ("worker-0-0",), unready_within=1.0, ready_within=10.0),
    Row("frozen tokenizer", ("tokenizer-0",), is_freeze=True, ready_within=_AFTER_STALL + 3.0),
    Row("frozen engine", ("engine-0",), is_freeze=True, unready_within=_AFTER_STALL, ready_within=_AFTER_STALL + 5.0),
    Row("frozen worker", ("worker-0-0",), is_freeze=True, unready_within=_AFTER_STALL, ready_within=_AFTER_STALL + 10),
)


class Outcome(Struct):
    """What one row showed."""

    row: str
    num_same: int = 0
    num_broken: int = 0
    """Answers that ended with an error or not at all."""
    num_different: int = 0
    """Answers that ended well but with another text, end or usage: never right."""
    unready_after: float | None = None
    ready_after: float | None = None
    """When every victim had a new process and /health was 200, from the fault."""
    seconds: float = 0.0
    remarks: list[str] = []


def bodies() -> list[bytes]:
    """Streams and plain requests, greedy and sampled with a seed, some with n, stop strings or logprobs."""
    made = []
    for number in range(NUM_STREAMS + NUM_PLAIN):
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": f"Tell me story number {number}, please."}],
            "max_tokens": OUTPUT_TOKENS,
            "ignore_eos": True,
            "temperature": 0.0 if number % 2 else 0.9,
            "seed": number,
        }
        if number < NUM_STREAMS:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if number % 5 == 0:
            body |= {"n": 2, "temperature": 0.9}
        if number % 7 == 0:
            body["stop"] = ["the silver key under", "zebra"]
        if number % 11 == 0:
            body |= {"logprobs": True, "top_logprobs": 2}
        made.append(json.dumps(body).encode())
    return made


def whole(answer: Answer) -> dict[str, Any]:
    """Of an answer all that must not change: texts, ends, usage (but for what the prefix cache gave), tokens scored."""
    texts: dict[int, str] = {}
    ends: dict[int, Any] = {}
    tokens: dict[int, list[str]] = {}
    usage = None
    for frame in [*answer.texts, answer.last_frame]:
        with contextlib.suppress(ValueError):
            chunk = json.loads(frame)
            if frame is answer.last_frame and answer.texts and frame == answer.texts[-1]:
                continue
            usage = chunk.get("usage") or usage
            for choice in chunk.get("choices", ()):
                index = choice["index"]
                texts[index] = texts.get(index, "") + ((choice.get("delta") or choice.get("message"))["content"] or "")
                ends[index] = choice.get("finish_reason") or ends.get(index)
                scored = (choice.get("logprobs") or {}).get("content") or []
                tokens[index] = tokens.get(index, []) + [entry["token"] for entry in scored]
    counts = {key: value for key, value in (usage or {}).items() if isinstance(value, int)}
    return {"texts": texts, "ends": ends, "usage": counts, "tokens": tokens}


async def load(server: RunningServer, at_fault: Any = None) -> list[Answer]:
    """All requests at once; `at_fault` is called once tokens flow."""
    client = LoadClient(Target.parse(server.url), keeps_texts=True, timeout_seconds=_LOAD_SECONDS)
    before = server.samples().get("vllm:generation_tokens_total", 0.0)
    tasks = [asyncio.ensure_future(client.post("/v1/chat/completions", body)) for body in bodies()]
    loop = asyncio.get_running_loop()
    if at_fault is not None:
        while not all(task.done() for task in tasks):
            samples = await loop.run_in_executor(None, server.samples)
            if samples.get("vllm:generation_tokens_total", 0.0) - before >= _TOKENS_BEFORE_FAULT:
                break
            await asyncio.sleep(0.02)
        await loop.run_in_executor(None, at_fault)
    answers = await asyncio.gather(*tasks)
    client.close()
    return answers


class Probe(threading.Thread):
    """Asks /health all the time; `changes` are (seconds since the fault, status)."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.fault_at = 0.0
        self.is_over = False
        self.changes: list[tuple[float, int]] = []

    def run(self) -> None:
        last = 0
        while not self.is_over:
            asked = time.monotonic()
            try:
                with urllib.request.urlopen(self._url + "/health", timeout=1.0) as response:
                    status = response.status
            except urllib.error.HTTPError as error:
                status = error.code
            except OSError:
                status = 0  # the frontend that was asked is the one that was killed
            if status and status != last and self.fault_at:
                self.changes.append((max(0.0, asked - self.fault_at), status))
                last = status
            time.sleep(0.01)


def run_row(row: Row, reference: list[dict[str, Any]] | None = None) -> tuple[Outcome, list[dict[str, Any]]]:
    """On a server of its own. Returns what was seen, and the reference for further rounds."""
    with serving(*SERVER) as server:
        if reference is None:
            reference = [whole(answer) for answer in asyncio.run(load(server))]
        return strike(server, row, reference), reference


def strike(server: RunningServer, row: Row, reference: list[dict[str, Any]]) -> Outcome:
    """One fault on a running server, under load; waits until all is well again."""
    outcome = Outcome(row.name)
    probe = Probe(server.url)
    old = server.pids()

    def fault() -> None:
        probe.fault_at = time.monotonic()
        for victim in row.victims:
            os.kill(old[victim], signal.SIGSTOP if row.is_freeze else signal.SIGKILL)

    probe.start()
    try:
        answers = asyncio.run(load(server, fault))
        _wait_until_whole(server, row, old, probe, outcome)
    finally:
        probe.is_over = True
        probe.join(5)
    outcome.unready_after = next((when for when, status in probe.changes if status == 503), None)
    outcome.seconds = time.monotonic() - probe.fault_at
    for number, (answer, expected) in enumerate(zip(answers, reference, strict=True)):
        if answer.error or not answer.is_done:
            outcome.num_broken += 1
            outcome.remarks.append(f"request {number}: {answer.status} {answer.error[:200]}")
        elif whole(answer) != expected:
            outcome.num_different += 1
            outcome.remarks.append(f"request {number}: {whole(answer)} is not {expected}")
        else:
            outcome.num_same += 1
    return outcome


def _wait_until_whole(
    server: RunningServer, row: Row, old: dict[str, int], probe: Probe, outcome: Outcome, seconds: float = 60.0
) -> None:
    """Until every victim has a new process and the server is healthy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        now = server.pids()
        is_new = all(now.get(victim, old[victim]) != old[victim] for victim in row.victims)
        with contextlib.suppress(OSError, ValueError):
            states = {one["name"]: one["state"] for one in json.loads(server.get("/status"))["services"]}
            if is_new and all(states.get(victim) == "ready" for victim in row.victims):
                server.get("/health")
                outcome.ready_after = time.monotonic() - probe.fault_at
                return
        time.sleep(0.02)
    outcome.remarks.append("it was never whole again")


def verdict(row: Row, outcome: Outcome) -> list[str]:
    """What of a row's promises was not kept, apart from times."""
    broken = []
    if outcome.num_different:
        broken.append(f"{outcome.num_different} answers differ")
    if outcome.num_broken and not row.breaks_connections:
        broken.append(f"{outcome.num_broken} answers are broken")
    if outcome.ready_after is None:
        broken.append("it did not come back")
    if row.unready_within is None and not row.is_freeze and outcome.unready_after is not None:
        broken.append("/health was 503")
    return broken


def table(outcomes: Sequence[Outcome]) -> str:
    """For people: rows in the order of ROWS, times as the worst of all rounds."""
    lines = [f"{'fault':<18}{'rounds':>7}{'same':>7}{'broken':>8}{'wrong':>7}{'503 after':>11}{'ready after':>13}"]
    for row in ROWS:
        of_row = [outcome for outcome in outcomes if outcome.row == row.name]
        if of_row:
            unready = max((outcome.unready_after or 0.0 for outcome in of_row), default=0.0)
            ready = max(outcome.ready_after or float("inf") for outcome in of_row)
            lines.append(
                f"{row.name:<18}{len(of_row):>7}{sum(one.num_same for one in of_row):>7}"
                f"{sum(one.num_broken for one in of_row):>8}{sum(one.num_different for one in of_row):>7}"
                f"{unready:>9.2f} s{ready:>11.2f} s"
            )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/killmatrix", description="Kill each kind of process under load.")
    parser.add_argument("--rounds", type=int, default=1, help="of each row (default 1)")
    parser.add_argument("--row", action="append", choices=[row.name for row in ROWS], help="only these rows")
    options = parser.parse_args(argv)
    outcomes: list[Outcome] = []
    is_kept = True
    for row in ROWS:
        if options.row and row.name not in options.row:
            continue
        reference = None
        for _ in range(options.rounds):
            outcome, reference = run_row(row, reference)
            outcomes.append(outcome)
            for remark in [*verdict(row, outcome), *outcome.remarks[:3]] if verdict(row, outcome) else ():
                is_kept = False
                print(f"  {row.name}: {remark}", flush=True)
    print(table(outcomes))
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
