"""How requests and the process end: clients gone, readers stalled, tokenizers lost, shutdowns, the full door."""

from __future__ import annotations

import json
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest


def eventually(is_true: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def post_raw(
    frontend: Any, body: dict[str, Any], path: str = "/v1/completions", receive_buffer: int = 0
) -> socket.socket:
    """A request on a connection of its own, for tests that read little or nothing."""
    data = json.dumps(body).encode()
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.settimeout(60)
    connection.connect(("127.0.0.1", frontend.port))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    connection.sendall(head.encode() + data)
    return connection


def causes(fake: Any) -> list[str]:
    return [abort.cause for abort in list(fake.aborts)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["!silent", "!hang", "!stuck"])
def test_a_gone_client_is_aborted_wherever_its_request_is(
    tokenizer: Any, frontend: Any, prompt: str, stream: bool
) -> None:
    """Before its yes, queued, and in mid-stream."""
    before = len(tokenizer.generates)
    connection = post_raw(frontend, {"prompt": [prompt, prompt], "stream": stream})
    eventually(lambda: len(tokenizer.generates) == before + 2)
    if stream and prompt == "!stuck":
        while b'"b "' not in connection.recv(65536):
            pass
    connection.close()
    ids = {generate.request_id for generate in tokenizer.generates[before:]}
    eventually(lambda: ids <= {abort.request_id for abort in list(tokenizer.aborts)})
    assert {abort.cause for abort in tokenizer.aborts if abort.request_id in ids} == {"client_gone"}
    eventually(lambda: frontend.client.get("/status").json()["in_flight"] == 0)


def test_a_finished_request_is_not_aborted(tokenizer: Any, frontend: Any) -> None:
    assert frontend.client.post("/v1/completions", json={"prompt": "x"}).status_code == 200
    finished = tokenizer.generates[-1].request_id
    frontend.client.get("/health")
    assert finished not in {abort.request_id for abort in tokenizer.aborts}


def test_connections_dropped_at_once_leave_nothing(tokenizer: Any, frontend: Any) -> None:
    for number in range(200):
        post_raw(frontend, {"prompt": "!stuck", "stream": number % 2 == 0}).close()
    # Some may still be read from their sockets when all that were read are gone.
    eventually(lambda: frontend.client.post("/v1/completions", json={"prompt": "x"}).status_code == 200)
    eventually(lambda: frontend.client.get("/status").json()["in_flight"] == 0)


def test_several_requests_on_one_connection_do_not_disturb_each_other(frontend: Any) -> None:
    with httpx.Client(base_url=frontend.url, limits=httpx.Limits(max_connections=1)) as client:
        for _ in range(20):
            assert client.post("/v1/completions", json={"prompt": "x"}).json()["choices"][0]["text"] == "Hello world 0"
            text = client.post("/v1/completions", json={"prompt": "x", "stream": True}).text
            assert text.endswith("data: [DONE]\n\n")


def test_a_quiet_stream_carries_comments(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--keep-alive-interval", "0.1", "--queue-timeout", "0.2").wait_ready()
    connection = post_raw(frontend, {"prompt": "!hang", "stream": True})
    received = b""
    while received.count(b": keep-alive\n\n") < 3:
        received += connection.recv(65536)
    assert b"200 OK" in received and b"data:" not in received
    connection.close()
    connection = post_raw(frontend, {"prompt": "!stuck", "stream": True})
    received = b""
    while received.count(b": keep-alive\n\n") < 3:
        received += connection.recv(65536)
    assert received.index(b'"b "') < received.index(b": keep-alive")
    connection.close()


def test_a_stalled_reader_is_aborted_and_delays_nobody(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--stall-timeout", "0.5").wait_ready()
    stalled = post_raw(frontend, {"prompt": "!flood-on", "stream": True}, receive_buffer=4096)
    assert frontend.client.post("/v1/completions", json={"prompt": "x"}).status_code == 200
    eventually(lambda: "slow_reader" in causes(fake))
    eventually(lambda: frontend.client.get("/status").json()["in_flight"] == 0)
    assert 'quire_aborts_total{cause="slow_reader"} 1' in frontend.client.get("/metrics").text
    stalled.close()


def test_a_slow_reader_gets_everything(fake: Any, start: Callable[..., Any]) -> None:
    """Deltas merge while it reads nothing; none is lost."""
    frontend = start().wait_ready()
    connection = post_raw(frontend, {"prompt": "!flood", "stream": True}, receive_buffer=65536)
    eventually(lambda: fake.num_finished == 1)
    eventually(lambda: frontend.client.get("/status").json()["connections"]["unsent_bytes"] > 4 << 20)
    received = b""
    while not received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"):
        part = connection.recv(1 << 20)
        assert part
        received += part
    assert received.count(b"~") == 4096 * 2000
    assert received.count(b"data: ") < 1000
    connection.close()


def test_nothing_is_served_until_a_tokenizer_is_ready(
    run_dir: Path, start: Callable[..., Any], fake_class: Any
) -> None:
    frontend = start().wait_answering()
    waiting = frontend.client.get("/ready")
    assert waiting.status_code == 503 and waiting.headers["retry-after"] == "1"
    assert waiting.json()["waiting_for"] == "waiting for a tokenizer"
    refused = frontend.client.post("/v1/completions", json={"prompt": "x"})
    assert refused.status_code == 503 and refused.headers["retry-after"]
    assert refused.json()["error"]["code"] == "service_unavailable"
    assert frontend.client.get("/v1/models").status_code == 503
    fake = fake_class(run_dir)
    try:
        fake.set_ready(False)
        eventually(lambda: "tokenizer-0" in frontend.client.get("/ready").json().get("waiting_for", ""))
        fake.set_ready(True)
        eventually(lambda: frontend.client.get("/ready").status_code == 200)
        assert frontend.client.post("/v1/completions", json={"prompt": "x"}).status_code == 200
    finally:
        fake.close()
    eventually(lambda: frontend.client.get("/health").status_code == 503)
    assert frontend.client.get("/health/live").status_code == 200


def test_without_resuming_a_lost_tokenizer_ends_its_requests_and_the_other_goes_on(
    run_dir: Path, start: Callable[..., Any], fake_class: Any
) -> None:
    first, second = fake_class(run_dir, 0), fake_class(run_dir, 1)
    frontend = start("--no-resume").wait_ready()
    eventually(lambda: len(frontend.client.get("/status").json()["services"]) == 3)
    connections = [post_raw(frontend, {"prompt": "!stuck", "stream": True}) for _ in range(4)]
    eventually(lambda: len(first.generates) == 2 and len(second.generates) == 2)  # the fewest in flight goes first
    for connection in connections:
        while b'"b "' not in connection.recv(65536):
            pass
    plain = post_raw(frontend, {"prompt": "!silent"})
    eventually(lambda: len(first.generates) + len(second.generates) == 5)
    lost, other = (first, second) if len(first.generates) == 3 else (second, first)
    lost.close()
    received = dict.fromkeys(connections, b"")

    def ended() -> int:
        for connection in select.select(connections, [], [], 0)[0]:
            received[connection] += connection.recv(65536)
        return sum(text.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n") for text in received.values())

    eventually(lambda: ended() == 2)
    assert plain.recv(65536).startswith(b"HTTP/1.1 503 ")
    assert ended() == 2 == sum(b'"error"' in text for text in received.values())
    assert frontend.client.post("/v1/completions", json={"prompt": "x"}).status_code == 200
    assert frontend.client.get("/ready").status_code == 200
    for connection in [*connections, plain]:
        connection.close()
    other.close()


def test_a_frontend_that_joins_others_takes_no_connection_before_it_can_answer(
    run_dir: Path, fake_class: Any, start: Callable[..., Any]
) -> None:
    joining = start("--is-joining")
    eventually(lambda: any(file.name == "frontend-0" for file in run_dir.iterdir()))
    with pytest.raises(httpx.ConnectError):
        joining.client.get("/health/live")
    fake = fake_class(run_dir, 0)
    joining.wait_ready()
    assert joining.client.post("/v1/completions", json={"prompt": "x"}).status_code == 200
    fake.close()


def test_the_full_door_answers_429_until_someone_leaves(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--max-in-flight", "3").wait_ready()
    held = post_raw(frontend, {"prompt": "!stuck", "n": 2, "stream": True})
    eventually(lambda: len(fake.generates) == 1)
    response = frontend.client.post("/v1/completions", json={"prompt": "x", "n": 2})
    assert response.status_code == 429
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert response.json()["error"]["code"] == "rate_limit_exceeded"
    assert response.json()["error"]["type"] == "rate_limit_error"
    assert len(fake.generates) == 1
    assert frontend.client.post("/v1/completions", json={"prompt": "x"}).status_code == 200
    held.close()
    eventually(lambda: frontend.client.post("/v1/completions", json={"prompt": "x", "n": 3}).status_code == 200)
    assert 'quire_admission_rejected_total{code="rate_limit_exceeded"}' in frontend.client.get("/metrics").text


def test_sigterm_lets_running_requests_finish(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start().wait_ready()
    texts: list[str] = []

    def stream() -> None:
        response = httpx.post(f"{frontend.url}/v1/completions", json={"prompt": "!slow x", "stream": True}, timeout=30)
        texts.append(response.text)

    threads = [threading.Thread(target=stream) for _ in range(5)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(fake.generates) == 5)
    frontend.process.send_signal(signal.SIGTERM)
    eventually(lambda: frontend.client.get("/ready").status_code == 503)
    refused = httpx.post(f"{frontend.url}/v1/completions", json={"prompt": "x"})
    assert refused.status_code == 503 and refused.headers["connection"] == "close"
    for thread in threads:
        thread.join()
    assert all(text.endswith("data: [DONE]\n\n") and '"error"' not in text for text in texts)
    assert frontend.process.wait(60) == 0


def test_what_outlasts_the_shutdown_timeout_ends_with_an_error_event(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--shutdown-timeout", "0.2").wait_ready()
    connection = post_raw(frontend, {"prompt": "!stuck", "stream": True})
    plain = post_raw(frontend, {"prompt": "!stuck"})
    eventually(lambda: len(fake.generates) == 2)
    frontend.process.send_signal(signal.SIGTERM)
    assert frontend.process.wait(60) == 0
    text = b""
    while part := connection.recv(65536):
        text += part
    assert b'data: {"error":' in text and b"data: [DONE]" in text
    assert plain.recv(65536).startswith(b"HTTP/1.1 503 ")
    connection.close()
    plain.close()
    eventually(lambda: causes(fake).count("shutdown") == 2)


def test_a_second_signal_ends_at_once(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--shutdown-timeout", "60").wait_ready()
    connection = post_raw(frontend, {"prompt": "!stuck", "stream": True})
    eventually(lambda: len(fake.generates) == 1)
    frontend.process.send_signal(signal.SIGTERM)
    eventually(lambda: frontend.client.get("/ready").status_code == 503)
    frontend.process.send_signal(signal.SIGTERM)
    assert frontend.process.wait(60) == 0
    connection.close()


def test_without_a_key_only_probes_answer(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start(environment={"QUIRE_API_KEY": "first,second"}).wait_ready()
    opened = {"/health", "/health/live", "/ready", "/ping"}
    for path in (*opened, "/version", "/v1/models", "/v1/models/demo", "/metrics", "/status", "/nope"):
        response = frontend.client.get(path)
        assert response.status_code == (200 if path in opened else 401), path
        if path not in opened:
            assert response.headers["www-authenticate"] == "Bearer"
            assert response.json()["error"]["code"] == "invalid_api_key"
    for path in ("/v1/chat/completions", "/v1/completions"):
        assert frontend.client.post(path, json={}).status_code == 401
        assert frontend.client.options(path).status_code == 204
    for bad in ("Bearer third", "Bearer", "first", "Basic first", "Bearer first second", "Bearer firs"):
        assert frontend.client.get("/v1/models", headers={"authorization": bad}).status_code == 401
    for key in ("first", "second"):
        headers = {"authorization": f"Bearer {key}"}
        assert frontend.client.get("/v1/models", headers=headers).status_code == 200
        assert frontend.client.post("/v1/completions", json={"prompt": "x"}, headers=headers).status_code == 200
    salts = [generate.cache_salt for generate in fake.generates]
    assert len(set(salts)) == 2 and all(salts)


def test_keys_come_from_a_file_and_metrics_can_be_open(fake: Any, start: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\n\nsesame\n")
    frontend = start("--api-key-file", str(tmp_path / "keys"), "--open-metrics").wait_ready()
    assert frontend.client.get("/metrics").status_code == 200
    assert frontend.client.get("/v1/models").status_code == 401
    assert frontend.client.get("/v1/models", headers={"authorization": "bearer sesame"}).status_code == 200


def test_cors_is_answered_for_allowed_origins_only(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--cors-origin", "https://a.example").wait_ready()
    asked = {"origin": "https://a.example", "access-control-request-headers": "authorization, x-stainless-os"}
    preflight = frontend.client.options("/v1/chat/completions", headers=asked)
    assert preflight.headers["access-control-allow-origin"] == "https://a.example"
    assert preflight.headers["access-control-allow-headers"] == "authorization, x-stainless-os"
    answer = frontend.client.post("/v1/completions", json={"prompt": "x"}, headers={"origin": "https://a.example"})
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    other = frontend.client.get("/v1/models", headers={"origin": "https://b.example"})
    assert "access-control-allow-origin" not in other.headers


def test_a_port_in_use_is_one_clear_line(run_dir: Path, frontend_class: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        frontend = frontend_class(run_dir, "--port", str(taken.getsockname()[1]))
        assert frontend.process.wait(60) == 1
        log = frontend.read_log().strip()
        assert len(log.splitlines()) == 1 and "in use" in log
        frontend.stop()


def test_two_frontends_share_a_port_and_each_others_metrics(
    fake: Any, run_dir: Path, start: Callable[..., Any]
) -> None:
    first = start().wait_ready()
    start("--port", str(first.port))
    eventually(lambda: 'quire_process_up{name="frontend-1"} 1' in httpx.get(f"{first.url}/metrics").text)
    for _ in range(20):  # each on a new connection: the kernel spreads them
        assert httpx.post(f"{first.url}/v1/completions", json={"prompt": "x"}).status_code == 200

    def count(text: str) -> float:
        line = next(line for line in text.splitlines() if line.startswith("vllm:e2e_request_latency_seconds_count"))
        return float(line.split()[-1])

    eventually(lambda: count(httpx.get(f"{first.url}/metrics").text) == 20)
