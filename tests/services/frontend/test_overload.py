"""A full server over HTTP: who is refused, with what, and before which byte."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

PATH = "/v1/completions"


def eventually(is_true: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def send(frontend: Any, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", frontend.port), timeout=60)
    connection.sendall(data)
    return connection


def request(prompt: str, *headers: str) -> bytes:
    body = b'{"prompt": "%s", "stream": true}' % prompt.encode()
    lines = [f"POST {PATH} HTTP/1.1", "Host: x", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *headers]).encode() + b"\r\n\r\n" + body


def door(frontend: Any) -> dict[str, Any]:
    return frontend.client.get("/status").json()["door"]


def check_refusal(response: httpx.Response, status: int, code: str) -> str:
    """The message of a refusal that says when to come again."""
    assert (response.status_code, response.json()["error"]["code"]) == (status, code), response.text
    assert 1 <= int(response.headers["retry-after"]) <= 60
    return response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_what_waits_too_long_is_503_before_its_first_byte(fake: Any, start: Callable[..., Any], stream: bool) -> None:
    """In the engine, which says so; and before it, where nobody answers."""
    frontend = start("--queue-timeout", "0.5").wait_ready()
    response = frontend.client.post(PATH, json={"prompt": "!late", "stream": stream})
    check_refusal(response, 503, "server_overloaded")
    response = frontend.client.post(PATH, json={"prompt": "!silent", "stream": stream})
    assert "--queue-timeout" in check_refusal(response, 503, "server_overloaded")
    eventually(lambda: [abort.cause for abort in list(fake.aborts)] == ["queue_timeout"])
    assert door(frontend)["choices"] == 0
    assert [generate.max_queue_seconds for generate in fake.generates] == [0.5, 0.5]


def test_only_the_first_of_several_prompts_has_a_deadline(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start().wait_ready()
    assert frontend.client.post(PATH, json={"prompt": ["a", "b", "c"]}).status_code == 200
    assert [generate.max_queue_seconds for generate in fake.generates] == [30.0, 0.0, 0.0]


def test_a_full_door_answers_before_the_body_has_come(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--max-in-flight", "1").wait_ready()
    held = send(frontend, request("!hang"))
    eventually(lambda: len(fake.generates) == 1)
    head = request("x" * 100_000).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
    refused = send(frontend, head)
    assert refused.recv(65536).startswith(b"HTTP/1.1 429 ")
    waiting = send(frontend, head.replace(b"Host: x", b"Host: x\r\nExpect: 100-continue"))
    assert waiting.recv(65536).startswith(b"HTTP/1.1 429 ")  # and not 100
    for connection in (held, refused, waiting):
        connection.close()


def test_prompt_tokens_that_wait_are_counted_until_they_run(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--max-waiting-tokens", "200").wait_ready()
    unknown = send(frontend, request("!silent" + "x" * 600))  # about 150 tokens, as far as anyone knows
    eventually(lambda: door(frontend)["waiting_tokens"] > 140)
    response = frontend.client.post(PATH, json={"prompt": "x" * 400})
    assert "--max-waiting-tokens" in check_refusal(response, 503, "server_overloaded")
    known = send(frontend, request("!hang " + "x" * 100))
    eventually(lambda: 140 < door(frontend)["waiting_tokens"] < 170)  # two tokens, says the tokenizer
    unknown.close()
    eventually(lambda: door(frontend)["waiting_tokens"] == 2)
    assert frontend.client.post(PATH, json={"prompt": "x" * 400}).status_code == 200
    running = send(frontend, request("!stuck a b c"))
    while b'"b "' not in running.recv(65536):
        pass
    assert door(frontend)["waiting_tokens"] == 2
    known.close()
    running.close()
    eventually(lambda: door(frontend)["waiting_tokens"] == door(frontend)["choices"] == door(frontend)["keys"] == 0)


def test_one_key_cannot_take_the_place_of_the_others(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--max-in-flight-per-key", "1", environment={"QUIRE_API_KEY": "first,second"}).wait_ready()
    first, second = ({"authorization": f"Bearer {key}"} for key in ("first", "second"))
    held = send(frontend, request("!hang", "Authorization: Bearer first"))
    eventually(lambda: len(fake.generates) == 1)
    refused = frontend.client.post(PATH, json={"prompt": "x"}, headers=first)
    assert "--max-in-flight-per-key" in check_refusal(refused, 429, "rate_limit_exceeded")
    assert frontend.client.post(PATH, json={"prompt": "x"}, headers=second).status_code == 200
    held.close()
    eventually(lambda: frontend.client.post(PATH, json={"prompt": "x"}, headers=first).status_code == 200)


@pytest.mark.parametrize("stream", [False, True])
def test_who_has_a_whole_answer_may_come_again_at_once(fake: Any, start: Callable[..., Any], stream: bool) -> None:
    """Also when many end together, whose ends wait for each other."""
    frontend = start("--max-in-flight", "16").wait_ready()
    body = json.dumps({"prompt": "x", "stream": stream}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    end = b"0\r\n\r\n" if stream else b"}"
    connections = [send(frontend, b"") for _ in range(16)]
    for _ in range(20):
        for connection in connections:
            connection.sendall(head + body)
        for connection in connections:
            received = b""
            while b"[DONE]" not in received and b'"usage"' not in received:
                received += connection.recv(65536)
                assert received.startswith(b"HTTP/1.1 200 "), received
            while not received.endswith(end):
                received += connection.recv(65536)
    for connection in connections:
        connection.close()


def test_retry_after_follows_how_fast_answers_end(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--max-in-flight", "2").wait_ready()
    held = [send(frontend, request("!hang")) for _ in range(2)]
    eventually(lambda: len(fake.generates) == 2)

    def retry_after() -> int:
        return int(frontend.client.post(PATH, json={"prompt": "x"}).headers["retry-after"])

    assert retry_after() == 1
    eventually(lambda: retry_after() >= 2)  # nothing has ended yet: it takes as long again as it has taken so far
    for connection in held:
        connection.close()
