"""Connections: how many there may be, how long they may take, and that those that stall are ended."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

DONE = b"data: [DONE]\n\n\r\n0\r\n\r\n"


def eventually(is_true: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


@contextlib.contextmanager
def connected(frontend: Any, data: bytes = b"", receive_buffer: int = 0) -> Iterator[socket.socket]:
    with socket.socket() as connection:
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(60)
        connection.connect(("127.0.0.1", frontend.port))
        connection.sendall(data)
        yield connection


def completion(prompt: str, **fields: Any) -> bytes:
    body = json.dumps({"prompt": prompt, **fields}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def read_until(connection: socket.socket, end: bytes) -> bytes:
    received = b""
    while end not in received:
        part = connection.recv(1 << 20)
        assert part, received[-300:]
        received += part
    return received


def read_all(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def metric(frontend: Any, sample: str) -> float:
    lines = frontend.client.get("/metrics").text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(sample)), 0.0)


def num_files(frontend: Any) -> int:
    return len(os.listdir(f"/proc/{frontend.process.pid}/fd"))


def test_more_streams_than_descriptors_wait_and_all_end(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--max-in-flight", "1000", max_files=96).wait_ready()
    before = num_files(frontend)
    with contextlib.ExitStack() as stack:
        request = completion("!slow x", stream=True)
        connections = [stack.enter_context(connected(frontend, request)) for _ in range(200)]
        eventually(lambda: len(fake.generates) > 40)
        assert num_files(frontend) <= 0.95 * 96
        for connection in connections:
            assert read_until(connection, DONE).startswith(b"HTTP/1.1 200 ")
            connection.close()
    eventually(lambda: num_files(frontend) <= before + 2)
    assert metric(frontend, "quire_accept_pauses_total") > 0
    assert frontend.read_log().count("more have to wait") == 1


def test_beyond_the_limit_a_connection_waits_for_another_to_end(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--max-connections", "3").wait_ready()
    frontend.client.close()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(frontend, completion("!stuck", stream=True))) for _ in range(3)]
        for connection in held:
            read_until(connection, b'"b "')
        waiting = stack.enter_context(connected(frontend, completion("x")))
        waiting.settimeout(0.3)
        with pytest.raises(TimeoutError):
            waiting.recv(1)
        waiting.settimeout(60)
        held[0].close()
        assert b"200 OK" in read_until(waiting, b"usage")


def test_idle_connections_make_room_for_new_ones(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--max-connections", "2").wait_ready()
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(connected(frontend)) for _ in range(2)]
        for connection in idle:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            read_until(connection, b"{}")
        third = stack.enter_context(connected(frontend, completion("x")))
        assert b"200 OK" in read_until(third, b"usage")
        assert idle[0].recv(1) == b""  # closed, and not reset
    assert metric(frontend, 'quire_connections_dropped_total{cause="idle"}') >= 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_nobody_takes_is_dropped_also_when_it_is_complete(
    fake: Any, start: Callable[..., Any], stream: bool
) -> None:
    frontend = start("--stall-timeout", "0.5", "--queue-timeout", "0").wait_ready()
    before = num_files(frontend)
    with connected(frontend, completion("!flood", stream=stream), receive_buffer=4096):
        eventually(lambda: fake.num_finished == 1)
        eventually(lambda: num_files(frontend) <= before)
        assert metric(frontend, 'quire_connections_dropped_total{cause="stalled"}') == 1
        assert frontend.client.get("/status").json()["in_flight"] == 0


def test_a_reader_behind_with_many_logprobs_is_dropped_before_they_fill_the_memory(
    fake: Any, start: Callable[..., Any]
) -> None:
    frontend = start("--stall-timeout", "600").wait_ready()
    body = completion("!flood-on", stream=True, n=2, logprobs=20)
    with connected(frontend, body, receive_buffer=4096):
        eventually(lambda: [abort.cause for abort in list(fake.aborts)] == ["slow_reader"], 120.0)
        assert metric(frontend, 'quire_connections_dropped_total{cause="stalled"}') == 1


def test_a_slow_reader_of_a_whole_answer_gets_all_of_it(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--stall-timeout", "0.5").wait_ready()
    with connected(frontend, completion("!flood"), receive_buffer=65536) as connection:
        eventually(lambda: fake.num_finished == 1)
        received = 0
        for _ in range(8):  # together longer than the timeout, which is for taking nothing at all
            time.sleep(0.2)
            received += sum(connection.recv(1 << 16).count(b"~") for _ in range(4))
        while received < 4096 * 2000:
            received += connection.recv(1 << 20).count(b"~")
        assert received == 4096 * 2000


def test_headers_and_bodies_that_do_not_come_are_408(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--header-timeout", "0.4", "--body-timeout", "0.4").wait_ready()
    slow = (b"GET /health HTT", b"GET /health HTTP/1.1\r\nHost: x\r\nA: ", completion("x" * 50)[:-20])
    for data in slow[1:]:
        with connected(frontend, data) as connection:
            answer = read_all(connection)
            assert answer.startswith(b"HTTP/1.1 408 ") and b'"request_timeout"' in answer
    for data in (b"", slow[0]):  # nothing to answer yet
        with connected(frontend, data) as connection:
            assert b"200" not in read_all(connection)
    eventually(lambda: frontend.client.get("/status").json()["in_flight"] == 0)


def test_a_drip_of_headers_does_not_win_time(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--header-timeout", "0.5").wait_ready()
    with connected(frontend, b"GET /health HTTP/1.1\r\nHost: x\r\n") as connection:
        begun = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            while time.monotonic() - begun < 10:
                connection.sendall(b"A: b\r\n")
                time.sleep(0.05)
        assert time.monotonic() - begun < 9


def test_idle_connections_end_after_a_while(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--idle-timeout", "0.3").wait_ready()
    with connected(frontend, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        assert b"200 OK" in read_all(connection)


def test_header_limits_are_flags(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--max-headers", "8", "--max-header-size", "2KiB").wait_answering()
    few = b"".join(b"H%d: x\r\n" % number for number in range(9))
    for headers, status in ((b"A: b\r\n", b"200"), (few, b"431"), (b"A: " + b"x" * 2048 + b"\r\n", b"431")):
        request = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n" + headers + b"\r\n"
        with connected(frontend, request) as connection:
            assert read_all(connection).startswith(b"HTTP/1.1 " + status)


def test_two_hosts_are_refused(frontend: Any) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\nConnection: close\r\n\r\n"
    with connected(frontend, request) as connection:
        assert read_all(connection).startswith(b"HTTP/1.1 400 ")
