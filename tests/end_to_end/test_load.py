"""Tests of many streams at once, and of clients that go away: nothing is lost, nothing is left."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from pathlib import Path

import pytest
from running_server import RunningServer, serving

from bench.client import Answer, LoadClient, Target

CHAT = "/v1/chat/completions"


def chat(question: str, **fields) -> bytes:
    body = {"messages": [{"role": "user", "content": question}], "stream": True, "temperature": 0, **fields}
    return json.dumps(body).encode()


def text_of(answer: Answer) -> str:
    return "".join(json.loads(frame)["choices"][0]["delta"].get("content") or "" for frame in answer.texts)


async def ask_all(url: str, bodies: list[bytes]) -> list[Answer]:
    client = LoadClient(Target.parse(url), keeps_texts=True)
    try:
        return await asyncio.gather(*(client.post(CHAT, body) for body in bodies))
    finally:
        client.close()


def open_files(pids: dict[str, int]) -> dict[str, int]:
    return {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items()}


def resident_bytes(pids: dict[str, int]) -> dict[str, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    return {name: int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page for name, pid in pids.items()}


def test_256_streams_lose_nothing_and_leave_nothing_over_three_rounds(demo: RunningServer):
    questions = [
        f"What is {i % 90} plus {i % 7}?" if i % 2 else f"Count from {i % 9} to {i % 9 + 20}" for i in range(256)
    ]
    bodies = [chat(question, max_tokens=48, stream_options={"include_usage": True}) for question in questions]
    reference: dict[str, str] = {}
    for question in dict.fromkeys(questions[:4]):
        reference[question] = text_of(asyncio.run(ask_all(demo.url, [chat(question, max_tokens=48)]))[0])
    before: dict[str, int] = {}
    resident: dict[str, int] = {}
    for number in range(4):
        answers = asyncio.run(ask_all(demo.url, bodies))
        assert [answer.error for answer in answers if answer.error] == []
        assert {answer.status for answer in answers} == {200}
        assert all(answer.is_done for answer in answers)
        texts: dict[str, set[str]] = {}
        for question, answer in zip(questions, answers, strict=True):
            texts.setdefault(question, set()).add(text_of(answer))
            assert json.loads(answer.last_frame)["usage"]["completion_tokens"] > 0
        assert all(len(found) == 1 for found in texts.values()), "one question, two answers"
        assert all(texts[question] == {text} for question, text in reference.items())
        demo.until_idle()
        files, memory = open_files(demo.pids()), resident_bytes(demo.pids())
        if number > 1:  # the first rounds make what stays: keep-alive timers, KV pages, compiled products
            for name, count in files.items():
                assert count <= before[name] + 4, f"{name} has {count} open files, had {before[name]}"
                assert memory[name] <= resident[name] + (32 << 20), (
                    f"{name} grew from {resident[name]} to {memory[name]}"
                )
        before, resident = files, memory


@pytest.mark.parametrize("stream", [True, False])
def test_a_thousand_clients_that_connect_and_drop_leave_nothing(demo: RunningServer, stream):
    host, port = demo.url.removeprefix("http://").split(":")
    files = open_files(demo.pids())
    body = chat("Count from 1 to 150", max_tokens=300, stream=stream)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    for cycle in range(1000):
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            request = head.encode() + body
            if cycle % 5 == 0:
                request = request[: cycle % len(request)]
            connection.sendall(request)
            if stream and cycle % 5 == 1:
                connection.recv(1)  # after the headers, in mid-stream
            elif stream and cycle % 5 == 2:
                connection.recv(1 << 20)
            elif cycle % 5 == 3:
                time.sleep(0.01)
        if cycle % 100 == 99:
            demo.until_idle()
    demo.until_idle()
    demo.get("/health")
    after = open_files(demo.pids())
    assert all(count <= files[name] + 8 for name, count in after.items()), (files, after)
    aborted = sum(value for name, value in demo.samples().items() if name.startswith("quire_aborts_total"))
    assert aborted > 0


def test_beyond_the_door_requests_are_refused_with_a_time_to_come_back():
    with serving("--max-num-seqs", "4", "--max-in-flight", "8") as server:
        answers = asyncio.run(ask_all(server.url, [chat("Count from 1 to 150", max_tokens=200)] * 40))
        statuses = [answer.status for answer in answers]
        assert set(statuses) == {200, 429}
        assert all(answer.is_done and not answer.error for answer in answers if answer.status == 200)
        assert all(1 <= float(answer.retry_after) <= 60 for answer in answers if answer.status == 429)
        server.until_idle()


def test_a_slow_reader_holds_up_nobody_and_gets_all_its_text(demo: RunningServer):
    host, port = demo.url.removeprefix("http://").split(":")
    body = chat("Count from 1 to 150", max_tokens=400, stream_options={"include_usage": True})
    asyncio.run(ask_all(demo.url, [body]))  # so that both find the same in the prefix cache
    with socket.create_connection((host, int(port)), timeout=60) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        slow.sendall(
            f"POST {CHAT} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        quick = asyncio.run(ask_all(demo.url, [body]))[0]
        received = b""
        while data := slow.recv(65536):
            received += data
    frames = [line[6:] for line in received.decode().splitlines() if line.startswith("data: {")]
    deltas = [json.loads(frame) for frame in frames]
    text = "".join(d["choices"][0]["delta"].get("content") or "" for d in deltas if d["choices"])
    assert text == text_of(quick)
    assert deltas[-1]["usage"] == json.loads(quick.last_frame)["usage"]
