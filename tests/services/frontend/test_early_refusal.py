"""A full door on the wire: refusals written before the application is asked, and what the connection does after."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.services.frontend.app import ROUTES
from quire.services.frontend.early_refusal import THROUGH_THE_DOOR

HEAD = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
BODY = b'{"prompt": "hi"}'
PATH = b"/v1/completions"
AUTHORIZATION = b"Authorization: Bearer k\r\n"
KEY = {"authorization": "Bearer k"}


def post(path: bytes = PATH, headers: bytes = b"", body: bytes = BODY) -> bytes:
    return HEAD % (path, len(body), headers) + body


@contextlib.contextmanager
def connected(frontend: Any, data: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", frontend.port), timeout=30) as connection:
        connection.sendall(data)
        yield connection


def read_answer(connection: socket.socket) -> tuple[bytes, bytes]:
    """The head and the body of one answer; not a byte more is taken."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = connection.recv(1)
        assert part, head
        head += part
    length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]
    return head, connection.recv(length, socket.MSG_WAITALL)


def status_of(connection: socket.socket) -> int:
    return int(read_answer(connection)[0].split()[1])


def has_ended(connection: socket.socket) -> bool:
    """Waits for the end; what was sent too late for the server makes it a reset."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def metric(frontend: Any, sample: str) -> float:
    lines = frontend.client.get("/metrics", headers=KEY).text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(sample)), 0.0)


def eventually(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


@contextlib.contextmanager
def fully(fake_class: Any, frontend_class: Any, *flags: str, keys: str = "") -> Iterator[Any]:
    """A frontend with one place, which is taken."""
    with tempfile.TemporaryDirectory(prefix="q-", dir="/tmp") as path, contextlib.ExitStack() as stack:
        fake = fake_class(Path(path))
        stack.callback(fake.close)
        frontend = frontend_class(
            Path(path), "--max-in-flight", "1", *flags, environment={"QUIRE_API_KEY": keys} if keys else {}
        )
        stack.callback(frontend.stop)
        frontend.wait_answering()
        eventually(lambda: frontend.client.get("/ready", headers=KEY).status_code == 200)
        stack.enter_context(connected(frontend, post(headers=AUTHORIZATION, body=b'{"prompt": "!hang"}')))
        eventually(lambda: fake.generates)
        yield frontend


@pytest.fixture(scope="module")
def full(fake_class: Any, frontend_class: Any) -> Iterator[Any]:
    with fully(fake_class, frontend_class, "--cors-origin", "http://here") as frontend:
        yield frontend


@pytest.fixture(scope="module")
def hasty(fake_class: Any, frontend_class: Any) -> Iterator[Any]:
    """One that wants a key and waits for nobody."""
    flags = ("--idle-timeout", "0.5", "--body-timeout", "0.5")
    with fully(fake_class, frontend_class, *flags, keys="k") as frontend:
        yield frontend


def test_a_refusal_is_whole_before_any_byte_of_the_body(full: Any) -> None:
    refused = metric(full, 'quire_admission_rejected_total{code="rate_limit_exceeded"}')
    answered = metric(full, 'quire_http_responses_total{status="429"}')
    headers = b"X-Request-Id: mine\r\nOrigin: http://here\r\nExpect: 100-continue\r\n"
    with connected(full, HEAD % (PATH + b"?a=b", 1000, headers)) as connection:
        head, body = read_answer(connection)
    assert head.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    for line in (b"date: ", b"content-type: application/json\r\n", b"x-request-id: mine\r\n",
                 b"access-control-allow-origin: http://here\r\n"):  # fmt: skip
        assert b"\r\n" + line in head
    assert 1 <= int(re.search(rb"retry-after: (\d+)\r\n", head)[1]) <= 60  # type: ignore[index]
    error = json.loads(body)["error"]
    assert (error["code"], error["param"]) == ("rate_limit_exceeded", None) and "--max-in-flight" in error["message"]
    assert metric(full, 'quire_admission_rejected_total{code="rate_limit_exceeded"}') == refused + 1
    assert metric(full, 'quire_http_responses_total{status="429"}') == answered + 1


def test_the_same_words_come_from_the_application(full: Any) -> None:
    """A path written another way is not known early."""
    with connected(full, post() + post(b"/v1/%63ompletions")) as connection:
        early, late = read_answer(connection), read_answer(connection)
    own_id = re.compile(rb"(x-request-id|date): [^\r]*|retry-after: \d+")
    assert own_id.sub(b"", early[0]) == own_id.sub(b"", late[0])
    assert json.loads(early[1]).keys() == json.loads(late[1]).keys()


def test_what_takes_a_place_is_refused_and_nothing_else(full: Any) -> None:
    paths = [path.replace("{id}", "x").encode() for path, methods, _ in ROUTES if "POST" in methods]
    assert set(paths) > THROUGH_THE_DOOR
    for path in paths:
        with connected(full, post(path, body=b"{}")) as connection:
            assert (status_of(connection) == 429) == (path in THROUGH_THE_DOOR), path
    for path in ("/health", "/metrics", "/v1/models", "/status"):
        assert full.client.get(path).status_code == 200
    assert full.client.get("/v1/completions").status_code == 405
    assert full.client.options("/v1/completions").status_code == 204


def test_anthropic_clients_get_their_own_envelope(full: Any) -> None:
    with connected(full, post(b"/v1/messages", b"X-Request-Id: mine\r\n")) as connection:
        head, body = read_answer(connection)
    assert b"\r\nrequest-id: mine\r\n" in head
    assert json.loads(body)["type"] == "error" and json.loads(body)["request_id"] == "mine"


def test_who_may_not_enter_at_all_is_told_that(hasty: Any) -> None:
    wrong, second = b"Authorization: Bearer q\r\n", AUTHORIZATION + b"Host: y\r\n"
    for headers, status in ((b"", 401), (wrong, 401), (AUTHORIZATION, 429), (second, 400)):
        with connected(hasty, post(headers=headers)) as connection:
            assert status_of(connection) == status
    with connected(hasty, HEAD % (PATH, 9 << 20, AUTHORIZATION)) as connection:
        assert status_of(connection) == 413
    assert hasty.client.post("/v1/messages", json={}, headers={"x-api-key": "k"}).status_code == 429


def test_the_connection_goes_on_after_its_body_came_late_and_in_pieces(full: Any) -> None:
    chunked = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % PATH
    with connected(full) as connection:
        for head, pieces in (
            (HEAD % (PATH, 9, b""), [b"GET", b" / ", b"xyz"]),
            (chunked, [b"3\r\nab", b"c\r\n0\r\n\r\n"]),
        ):
            connection.sendall(head)
            assert status_of(connection) == 429
            for piece in pieces:
                connection.sendall(piece)
            connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
            assert status_of(connection) == 200


def test_pipelined_requests_are_answered_in_order(full: Any) -> None:
    version = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
    with connected(full, post() + version + post() + version + version + post()) as connection:
        assert [status_of(connection) for _ in range(6)] == [429, 200, 429, 200, 200, 429]


def test_a_refusal_waits_for_the_answer_before_it(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--max-in-flight", "1").wait_ready()
    with connected(frontend, post(body=b'{"prompt": "!slow"}') + post()) as connection:
        head, body = read_answer(connection)
        assert head.startswith(b"HTTP/1.1 200 ") and b"Hello" in body
        assert status_of(connection) in (200, 429)  # the place may be free by then


def test_thousands_of_refusals_that_nobody_reads_yet_all_come(full: Any) -> None:
    count = 6_000
    before = metric(full, 'quire_http_responses_total{status="429"}')
    with connected(full) as connection:
        sender = threading.Thread(target=connection.sendall, args=(post(body=b"") * count,))
        sender.start()
        eventually(lambda: metric(full, 'quire_http_responses_total{status="429"}') > before)
        received = 0
        rest = b""
        while received < count:
            part = connection.recv(1 << 20)
            assert part
            received += (rest + part).count(b"HTTP/1.1 429 ") - rest.count(b"HTTP/1.1 429 ")
            rest = (rest + part)[-12:]
        sender.join()


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_one_who_closes_after_it_still_gets_the_answer_to_a_large_body(full: Any, version: bytes) -> None:
    headers = b"" if version == b"1.0" else b"Connection: close\r\n"
    request = post(headers=headers, body=b"x" * (4 << 20)).replace(b"HTTP/1.1", b"HTTP/" + version, 1)
    with connected(full, request) as connection:  # all is sent before anything is read
        head, _ = read_answer(connection)
        assert head.startswith(b"HTTP/1.1 429 ") and head.count(b"connection: close\r\n") == 1
        assert connection.recv(1) == b""


def test_a_body_that_never_comes_ends_the_connection_without_another_word(hasty: Any) -> None:
    with connected(hasty, HEAD % (PATH, 10, AUTHORIZATION)) as connection:
        assert status_of(connection) == 429
        assert has_ended(connection)


@pytest.mark.parametrize("headers, status", [(AUTHORIZATION, 429), (b"", 401)])
def test_a_connection_is_idle_again_when_a_late_body_is_there(hasty: Any, headers: bytes, status: int) -> None:
    """Answered early by the door, or by the application to a wrong key."""
    with connected(hasty, HEAD % (PATH, 4, headers)) as connection:
        assert status_of(connection) == status
        connection.sendall(b"abcd")
        assert has_ended(connection)


def test_an_offer_of_http2_is_refused_as_well_and_its_body_dropped(full: Any) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"
    with connected(full) as connection:
        for _ in range(2):
            connection.sendall(HEAD % (PATH, 9, offer) + b"GET")
            assert status_of(connection) == 429
            connection.sendall(b" / xyz")
        connection.sendall(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        assert status_of(connection) == 200
