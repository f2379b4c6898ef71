"""The load that faults happen under: streams and plain requests of every sort, all with seeds; and a probe of /health.

Used by kill_matrix.py and kill_storm.py. What the answers must be is history.py's.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from bench.client import LoadClient, Target
from bench.response import Answer
from tests.end_to_end.running_server import RunningServer

NUM_STREAMS, NUM_PLAIN = 32, 8
OUTPUT_TOKENS = 96
CHAT = "/v1/chat/completions"
_LOAD_SECONDS = 60.0


def bodies(num_streams: int = NUM_STREAMS, num_plain: int = NUM_PLAIN, max_tokens: int = OUTPUT_TOKENS) -> list[bytes]:
    """Streams and plain requests, greedy and sampled with a seed, some with n, stop strings or logprobs."""
    made = []
    for number in range(num_streams + num_plain):
        body: dict[str, Any] = {
            "messages": [{"role": "user", "content": f"Tell me story number {number}, please."}],
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "temperature": 0.0 if number % 2 else 0.9,
            "seed": number,
        }
        if number < num_streams:
            body |= {"stream": True, "stream_options": {"include_usage": True}}
        if number % 5 == 0:
            body |= {"n": 2, "temperature": 0.9}
        if number % 7 == 0:
            body["stop"] = ["the silver key under", "zebra"]
        if number % 11 == 0:
            body |= {"logprobs": True, "top_logprobs": 2}
        made.append(json.dumps(body).encode())
    return made


async def load(
    server: RunningServer, asked: Sequence[bytes], at_fault: Callable[[], None] | None = None, pieces_before: int = 200
) -> list[Answer]:
    """All requests at once; `at_fault` is called once so many pieces of answers have come."""
    client = LoadClient(Target.parse(server.url), keeps_texts=True, timeout_seconds=_LOAD_SECONDS)
    tasks = [asyncio.ensure_future(client.post(CHAT, body)) for body in asked]
    loop = asyncio.get_running_loop()
    if at_fault is not None:
        # Counted here: the server's own counts are a report old, in which much of this is answered.
        while client.num_pieces < pieces_before and not all(task.done() for task in tasks):
            await asyncio.sleep(0.005)
        await loop.run_in_executor(None, at_fault)
    answers = await asyncio.gather(*tasks)
    client.close()
    return answers


def pauses(answers: Sequence[Answer], since: float, until: float = float("inf")) -> list[float]:
    """Of each stream under way at some time in between: the longest time without text, less its usual one. Seconds."""
    found = []
    for answer in answers:
        gaps = [later - earlier for earlier, later in zip(answer.arrivals, answer.arrivals[1:], strict=False)]
        ends = answer.arrivals[1:]
        struck = [gap for gap, end in zip(gaps, ends, strict=True) if end > since and end - gap < until]
        if struck:
            found.append(max(0.0, max(struck) - sorted(gaps)[len(gaps) // 2]))
    return found


def percentile(values: Sequence[float], share: float) -> float:
    """0 of nothing."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


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
                error.close()
            except OSError:
                status = 0  # the frontend that was asked is the one that was struck
            if status and status != last and self.fault_at:
                self.changes.append((max(0.0, asked - self.fault_at), status))
                last = status
            time.sleep(0.01)

    @property
    def unready_after(self) -> float | None:
        """Seconds from the fault to the first 503; None: there was none."""
        return next((when for when, status in self.changes if status == 503), None)
