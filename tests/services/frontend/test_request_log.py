"""One log line a request, at its end: everything but the prompt and the answer."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from quire.services.frontend.request_log import RequestFacts

SECRET = "swordfish"


def lines_of(frontend: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in frontend.read_log().splitlines()]


def eventually(is_true: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def requests_of(frontend: Any, count: int) -> list[dict[str, Any]]:
    def found() -> list[dict[str, Any]]:
        return [line for line in lines_of(frontend) if line.get("event") == "request"]

    eventually(lambda: len(found()) >= count)
    assert len(found()) == count
    return found()


def test_each_request_is_one_line_with_its_figures(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--log-format", "json", environment={"QUIRE_API_KEY": "sesame"}).wait_ready()
    frontend.client.headers["authorization"] = "Bearer sesame"
    post = frontend.client.post
    body = {"prompt": f"a {SECRET}", "stream": True}
    answer = post("/v1/completions", json=body, headers={"x-request-id": "mine-1"})
    post("/v1/chat/completions", json={"messages": [{"role": "user", "content": SECRET}], "n": 2})
    post("/v1/completions", json={"prompt": SECRET, "temperature": 9})
    post("/v1/completions", json={"prompt": f"!refuse-long {SECRET}"})
    post("/v1/completions", json={"prompt": f"!error {SECRET}", "stream": True})
    post("/v1/completions", json={"prompt": "x", "model": SECRET})
    first, chat, wrong, long, broken, unknown = requests_of(frontend, 6)
    assert answer.headers["x-request-id"] == first["request_id"] == "mine-1"
    assert first["id"].startswith("cmpl-") and first["service"] == "frontend"
    assert (first["model"], first["path"], first["stream"]) == ("demo", "/v1/completions", True)
    assert (first["prompt_tokens"], first["cached_tokens"], first["output_tokens"]) == (2, 3, 5)
    assert (first["status"], first["outcome"], first["finish_reasons"]) == (200, "ok", ["stop"])
    assert 0 < first["first_token_seconds"] <= first["seconds"]
    assert first["key"] and first["key"] not in "sesame" and len(first["key"]) == 8
    assert (chat["choices"], chat["output_tokens"], chat["stream"]) == (2, 10, False)
    assert (wrong["status"], wrong["outcome"], wrong["id"]) == (400, "invalid_value", "")
    assert (long["status"], long["outcome"]) == (400, "context_length_exceeded")
    assert (broken["status"], broken["outcome"]) == (200, "internal_error")
    assert (unknown["status"], unknown["outcome"]) == (404, "model_not_found")
    assert wrong["request_id"].startswith("req-")
    log = frontend.read_log()
    assert SECRET not in log and "sesame" not in log and "Hello" not in log


@pytest.mark.parametrize("prompt", ["!silent", "!hang", "!stuck"])
def test_a_client_that_has_gone_is_told_of_too(fake: Any, start: Callable[..., Any], prompt: str) -> None:
    frontend = start("--log-format", "json").wait_ready()
    body = json.dumps({"prompt": prompt, "stream": True}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", frontend.port), timeout=60) as connection:
        connection.sendall(head.encode() + body)
        eventually(lambda: len(fake.generates) == 1)
        if prompt == "!stuck":  # the only one of them that begins to answer
            assert connection.recv(1) == b"H"
    (line,) = requests_of(frontend, 1)
    assert line["outcome"] == "client_gone"
    assert line["status"] == (200 if prompt == "!stuck" else 499)


def test_a_storm_at_the_door_is_a_line_a_second(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--log-format", "json", "--max-in-flight", "1").wait_ready()
    with frontend.client.stream("POST", "/v1/completions", json={"prompt": "!stuck", "stream": True}) as held:
        parts = held.iter_raw()
        next(parts)
        for _ in range(100):
            assert frontend.client.post("/v1/completions", json={"prompt": "x"}).status_code == 429

        def refused() -> list[int]:
            return [line["refused"]["rate_limit_exceeded"] for line in lines_of(frontend) if "refused" in line]

        eventually(lambda: sum(refused()) == 100)
        assert len(refused()) < 20
        assert not [line for line in lines_of(frontend) if line.get("event") == "request"]


def test_a_sentence_says_the_same_in_text(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start().wait_ready()
    frontend.client.post("/v1/completions", json={"prompt": "a b"}, headers={"x-request-id": "mine-2"})
    eventually(lambda: "mine-2" in frontend.read_log())
    line = next(line for line in frontend.read_log().splitlines() if "mine-2" in line)
    for part in ("INFO", "cmpl-", "200 ok", "2 prompt tokens (3 cached)", "5 output tokens", "first after", "stop"):
        assert part in line


def test_facts_of_a_request_that_came_to_nothing_are_whole() -> None:
    facts = RequestFacts(100.0, "r", "chat", "/v1/chat/completions", ended_at=99.0, status=499, outcome="client_gone")
    assert facts.as_fields()["seconds"] == 0.0 and facts.as_fields()["first_token_seconds"] is None
    assert "no first token" in facts.as_sentence()
