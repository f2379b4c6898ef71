"""A frontend that leaves while another one has its port: nobody is refused, reset or cut off."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPResponse
from typing import Any

import httpx
import pytest
from test_siblings import Pair, eventually

from quire.services.frontend.port_sharing import spread, steer_to


def listening(port: int = 0) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(512)
    sock.setblocking(False)
    return sock


def taken(sock: socket.socket) -> int:
    number = 0
    while True:
        try:
            sock.accept()[0].close()
        except BlockingIOError:
            return number
        number += 1


def test_new_connections_are_steered_to_one_of_the_sockets_of_a_port() -> None:
    first = listening()
    port = first.getsockname()[1]
    second = listening(port)

    def connect() -> list[int]:
        for _ in range(64):
            socket.create_connection(("127.0.0.1", port)).close()
        return [taken(first), taken(second)]

    with first, second:
        assert all(connect())
        if not steer_to(first, 1):
            pytest.skip("this kernel steers nothing")
        assert connect() == [0, 64]
        assert steer_to(second, 0) and connect() == [64, 0]
        assert steer_to(first, 7) and all(connect())
        assert steer_to(first, 1)
        spread(second)
        assert all(connect())


class Sharing(Pair):
    """Two frontends of one port. New connections are taken by the one or the other."""

    def __init__(self, fake: Any, start: Callable[..., Any], shutdown_timeout: int) -> None:
        def start_one() -> Any:
            flags = ["--shutdown-timeout", str(shutdown_timeout)]
            process = start(*flags, *(["--port", str(self.port)] if self.port else []))
            self.port = self.port or process.port
            process.client.close()
            process.url = f"http://127.0.0.1:{self.port}"
            process.client = httpx.Client(base_url=process.url, timeout=30)
            return process

        self.port = 0
        super().__init__(fake, start_one)

    def connect(self) -> list[HTTPConnection]:
        """Sixteen connections that have been used: some are of the one, some of the other."""
        found = [HTTPConnection("127.0.0.1", self.port, timeout=30) for _ in range(16)]
        for connection in found:
            assert version(connection).status == 200
        return found

    def stream(self, count: int, prompt: str) -> tuple[list[threading.Thread], list[str]]:
        """So many streams that have begun, and where what they end with will be."""
        texts: list[str] = []

        def ask() -> None:
            with httpx.Client(base_url=self.one.url, timeout=60) as client:
                body = {"prompt": prompt, "stream": True}
                texts.append(client.post("/v1/completions", json=body).text)

        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        eventually(lambda: len(self.fake.generates) == count)
        return threads, texts


def version(connection: HTTPConnection) -> HTTPResponse:
    connection.request("GET", "/version")
    response = connection.getresponse()
    response.read()
    return response


def states(process: Any) -> dict[str, str]:
    services = httpx.get(process.url + "/status").json()["services"]
    return {service["name"]: service["state"] for service in services if service["kind"] == "frontend"}


def test_open_connections_are_served_and_streams_end_while_new_ones_go_to_the_other(fake: Any, start: Any) -> None:
    sharing = Sharing(fake, start, 600)
    kept = sharing.connect()
    streaming, texts = sharing.stream(6, "!slow !long")
    sharing.one.process.send_signal(signal.SIGUSR2)
    eventually(lambda: states(sharing.other).get("frontend-0") != "ready")
    answers = [version(connection) for connection in kept]
    assert [answer.status for answer in answers] == [200] * 16
    assert 0 < sum(answer.will_close for answer in answers) < 16
    for _ in range(50):
        assert httpx.get(sharing.other.url + "/ready").status_code == 200
    for thread in streaming:
        thread.join(60)
    assert len(texts) == 6 and all(text.endswith("data: [DONE]\n\n") and "w199" in text for text in texts)
    for connection in (*kept, sharing.one.client, sharing.other.client):
        connection.close()
    assert sharing.one.process.wait(60) == 0
    assert httpx.get(sharing.other.url + "/ready").status_code == 200


def test_idle_clients_are_waited_for_and_not_for_ever(fake: Any, start: Any) -> None:
    sharing = Sharing(fake, start, 3)
    idle = sharing.connect()
    sharing.one.process.send_signal(signal.SIGUSR2)
    assert sharing.one.process.wait(60) == 0
    assert states(sharing.other) == {"frontend-1": "ready"} or states(sharing.other)["frontend-0"] == "draining"
    for connection in idle:
        connection.close()


def ended(process: Any) -> bool:
    """Once it was told to stop: the second time ends what runs."""
    process.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    return process.process.poll() is not None


def test_a_server_that_stops_meanwhile_stops_it_too(fake: Any, start: Any) -> None:
    sharing = Sharing(fake, start, 600)
    streaming, texts = sharing.stream(8, "!stuck")
    sharing.one.process.send_signal(signal.SIGUSR2)
    for process in (sharing.one, sharing.other):
        eventually(lambda process=process: ended(process))
    assert [process.process.wait(60) for process in (sharing.one, sharing.other)] == [0, 0]
    for thread in streaming:
        thread.join(60)
    assert len(texts) == 8 and all("The server is shutting down" in text for text in texts)
