"""Faults in the middle of a step of the real worker: what is struck ends with a sentence, all else goes on."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from history import Content, content, judge
from running_server import RunningServer, serving

from bench.client import Answer, LoadClient, Target

MARKER = 700
"""A token id that only a struck request has in its prompt."""
SHARED = list(range(300, 364))
_reference: list[Content] = []


def completion(prompt: list[int], **fields: Any) -> bytes:
    body = {"prompt": prompt, "max_tokens": 40, "temperature": 0, "ignore_eos": True, "stream": True, "seed": 1}
    return json.dumps({**body, "stream_options": {"include_usage": True}, **fields}).encode()


def ordinary() -> list[bytes]:
    return [completion([100 + number, 200, 210 + number], temperature=0.8 * (number % 2)) for number in range(8)]


async def complete(server: RunningServer, bodies: list[bytes]) -> list[Answer]:
    client = LoadClient(Target.parse(server.url), keeps_texts=True, timeout_seconds=60)
    try:
        return await asyncio.gather(*(client.post("/v1/completions", body) for body in bodies))
    finally:
        client.close()


@pytest.fixture
def reference(demo: RunningServer) -> list[Content]:
    """What the ordinary requests are answered without a fault."""
    if not _reference:
        _reference.extend(content(answer) for answer in asyncio.run(complete(demo, ordinary())))
    return _reference


def until(is_true: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.05)


def cached_tokens(answer: Answer) -> int:
    return json.loads(answer.last_frame)["usage"]["prompt_tokens_details"]["cached_tokens"]


def test_a_row_without_numbers_ends_with_an_error_the_others_go_on_and_its_blocks_serve_nobody(
    demo: RunningServer, reference: list[Content]
):
    flags = ("--fault-points", f"nan@token:{MARKER}", "--poison-blocks", "--check-invariants", "--max-num-seqs", "64")
    with serving(*flags, "--kv-cache-memory", "64MiB") as server:
        *others, struck = asyncio.run(complete(server, [*ordinary(), completion([*SHARED, MARKER])]))
        verdict = judge(ordinary(), others, reference)
        assert verdict.num_same == len(others), verdict.remarks
        assert "was not a number" in struck.error and struck.status == 200
        until(lambda: server.samples().get("quire_nan_rows_total") == 1)
        after, again = (asyncio.run(complete(server, [completion([*SHARED, 5])]))[0] for _ in range(2))
        assert cached_tokens(after) == 0, "what a row without numbers had computed was reused"
        assert cached_tokens(again) == len(SHARED)
        (expected,) = asyncio.run(complete(demo, [completion([*SHARED, 5])]))
        assert content(after) == content(again) == content(expected)
        server.until_idle()


def test_an_exception_and_a_lack_of_memory_in_a_step_cost_a_pause(reference: list[Content]):
    with serving("--fault-points", "exception@step:20,oom@step:90", "--max-num-seqs", "64") as server:
        engine = server.pids()["engine-0"]
        for number, cause in enumerate(("FaultError: fault point at step 20", "out of memory in a step of"), start=1):
            while server.output.count("it is started again") < number:
                server.until_healthy()
                verdict = judge(ordinary(), asyncio.run(complete(server, ordinary())), reference)
                assert verdict.num_same == len(reference), verdict.remarks
            until(lambda cause=cause: cause in server.output)
        until(lambda: "lower --memory-utilization" in server.output)
        assert server.pids()["engine-0"] == engine
        server.until_idle()


def test_a_step_that_never_ends_is_ended_by_the_watchdog(reference: list[Content]):
    with serving("--fault-points", "freeze@step:20", "--stall-limit", "3") as server:
        verdict = judge(ordinary(), asyncio.run(complete(server, ordinary())), reference)
        assert verdict.num_same == len(reference), verdict.remarks
        until(lambda: "worker-0-0: no sign of life for" in server.output)


def test_a_request_that_kills_workers_is_found_out_and_harms_nobody_else(reference: list[Content]):
    """The first two crashes take all in the batch with them; the third shows which of them it was."""
    with serving("--fault-points", f"kill@token:{MARKER}", "--max-num-seqs", "64") as server:
        *others, poison = asyncio.run(complete(server, [*ordinary(), completion([5, MARKER, 6])]))
        verdict = judge(ordinary(), others, reference)
        assert verdict.num_same == len(others), verdict.remarks
        assert "crashed 3 times while this request was running" in poison.error + poison.last_frame.decode()
        until(lambda: server.output.count("it is started again") == 3)
        server.until_healthy()
        assert judge(ordinary(), asyncio.run(complete(server, ordinary())), reference).num_same == len(others)


def test_a_fault_point_that_is_none_is_said_in_a_line():
    server = RunningServer("--fault-points", "boom@step:1")
    assert server.process.wait(60) == 1
    server.stop()
    assert "'boom@step:1' is not ACTION" in server.output.strip().splitlines()[-1]
    assert "Traceback" not in server.output
