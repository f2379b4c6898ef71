"""Streams beside prompts of 8 MiB: windows with and without them in turn, so that both see the same machine.

Part of overload.py. Such a prompt is longer than the model takes and is refused, which must cost the
streams nothing. It is sent by a process of its own (this file, run), or the client that times the streams
would be held up by its own sending. Knows the API only.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.append(str(Path(__file__).resolve().parent.parent))

from bench.client import LoadClient
from bench.recording import spread
from bench.response import Answer, monotonic
from bench.workloads import Sampling, body

SIZE_BYTES = (8 << 20) - 4096
_PAUSE_SECONDS = 0.2
"""Between two long prompts."""
_OUTPUT_LEN = 256


def long_bodies(model: str) -> dict[str, tuple[str, bytes]]:
    """(path, body) by kind of prompt."""
    chance = random.Random(0)
    words = ["table", "river", "cloud", "of", "the", "and", "seven", "light"]
    text = " ".join(chance.choice(words) for _ in range(SIZE_BYTES // 5))[: SIZE_BYTES - 512]
    ids = [chance.randrange(1000, 2000) for _ in range(SIZE_BYTES // 5 - 512)]
    kinds = {
        "text": ("/v1/completions", {"model": model, "prompt": text}),
        "chat": ("/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": text}]}),
        "token ids": ("/v1/completions", {"model": model, "prompt": ids}),
    }
    return {kind: (path, json.dumps(fields, separators=(",", ":")).encode()) for kind, (path, fields) in kinds.items()}


async def beside_long_prompts(
    client: LoadClient, url: str, model: str, num_streams: int, num_windows: int, window_seconds: float
) -> dict[str, Any]:
    """Times between frames with and without, by kind; `ratios` are p99 over p99."""
    answers: list[Answer] = []
    is_over = False

    async def stream_on(number: int) -> None:
        sampling, count = Sampling(), 0
        while not is_over:
            prompt = [300 + (number * 31 + count * 7 + place) % 1500 for place in range(32)]
            one = body(model, prompt, _OUTPUT_LEN, sampling, is_chat=False, is_stream=True)
            answers.append(await client.post("/v1/completions", one))
            count += 1

    streams = [asyncio.ensure_future(stream_on(number)) for number in range(num_streams)]
    await asyncio.sleep(window_seconds)
    windows: dict[str, list[tuple[float, float]]] = {"none": []}
    statuses: dict[str, list[int]] = {}
    for kind, (path, one) in long_bodies(model).items():
        for _ in range(num_windows):
            windows["none"].append(await _window(window_seconds))
            begin, end, seen = await _sent(url, path, one, window_seconds)
            statuses.setdefault(kind, []).extend(seen)
            windows.setdefault(kind, []).append((begin, end))
    is_over = True
    await asyncio.gather(*streams)
    gaps = {kind: spread([gap * 1e3 for gap in _gaps(answers, times)]) for kind, times in windows.items()}
    return {
        "itl_ms": gaps,
        "ratios": {kind: one["p99"] / gaps["none"]["p99"] for kind, one in gaps.items() if kind != "none"},
        "statuses": {kind: {str(one): seen.count(one) for one in sorted(set(seen))} for kind, seen in statuses.items()},
        "stream_errors": sum(bool(answer.error) for answer in answers),
    }


async def _sent(url: str, path: str, body: bytes, seconds: float) -> tuple[float, float, list[int]]:
    """From when to when such a prompt was sent, one after another, and what was answered."""
    with tempfile.NamedTemporaryFile(prefix="quire-bench-") as file:
        file.write(body)
        file.flush()
        command = [sys.executable, __file__, url, path, file.name, str(seconds)]
        sender = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        printed, _ = await sender.communicate()
    return tuple(json.loads(printed))


async def _window(seconds: float) -> tuple[float, float]:
    begin = monotonic()
    await asyncio.sleep(seconds)
    return begin, monotonic()


def _gaps(answers: list[Answer], windows: list[tuple[float, float]]) -> list[float]:
    """Between frames that arrived within one of the windows."""
    found = []
    for answer in answers:
        for before, after in zip(answer.arrivals, answer.arrivals[1:], strict=False):
            if any(begin <= after <= end for begin, end in windows):
                found.append(after - before)
    return found


def _send(url: str, path: str, file: str, seconds: str) -> None:
    """What `_sent` starts: prints begin and end (CLOCK_MONOTONIC) and every status, as JSON."""
    body = Path(file).read_bytes()
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port)
    connection.connect()
    statuses: list[int] = []
    begin = time.monotonic()
    while time.monotonic() < begin + float(seconds):
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
        statuses.append(response.status)
        time.sleep(_PAUSE_SECONDS)
    print(json.dumps((begin, time.monotonic(), statuses)))


if __name__ == "__main__":
    _send(*sys.argv[1:])
