"""Tests of links: blocking and on an event loop, over ipc and over tcp with keys."""

from __future__ import annotations

import asyncio

import pytest

from quire.shared.link import Client, Keys, Reader, Server, wait
from quire.shared.messages import Abort, Hello, RequestId, Submit, ToEngine


@pytest.fixture
def server(tmp_path):
    server = Server(f"ipc://{tmp_path}/s.sock", ToEngine)
    yield server
    server.close()


@pytest.fixture
def client(server):
    client = Client(server.address, "me", ToEngine)
    yield client
    client.close()


def abort(number: int) -> Abort:
    return Abort(RequestId(number), None, "client_gone")


def test_messages_arrive_in_order_under_the_clients_name(server, client):
    for number in range(100):
        client.send(abort(number))
    received = []
    while len(received) < 100:
        wait([server], 5)
        while (got := server.receive()) is not None:
            received.append(got)
    assert received == [("me", abort(number)) for number in range(100)]
    assert server.send("me", abort(7))
    wait([client], 5)
    assert client.receive() == abort(7)


def test_sending_to_who_is_not_there_says_so(server):
    assert server.send("nobody", abort(1)) is False


def test_what_cannot_be_decoded_is_dropped_and_the_next_message_is_heard(server, client, caplog):
    client._socket.send(b"\xc1garbage")
    client._socket.send(b"\xd4\x01\x00")  # an extension type
    client.send(Hello("me", 1))
    wait([server], 5)
    while (got := server.receive()) is None:
        wait([server], 5)
    assert got == ("me", Hello("me", 1))
    assert "could not be decoded" in caplog.text


def test_a_restarted_client_takes_its_name_over(server, client):
    client.send(abort(1))
    wait([server], 5)
    assert server.receive() == ("me", abort(1))
    again = Client(server.address, "me", ToEngine)
    again.send(abort(2))
    wait([server], 5)
    assert server.receive() == ("me", abort(2))
    server.send("me", abort(3))
    wait([again], 5)
    assert again.receive() == abort(3)
    again.close()


def test_a_reader_hears_everything_also_while_it_sends(tmp_path):
    async def talk() -> list[int]:
        server = Server(f"ipc://{tmp_path}/r.sock", ToEngine)
        client = Client(server.address, "me", ToEngine)
        heard: list[int] = []
        done = asyncio.Event()

        def echo(received: tuple[str, Abort]) -> None:
            peer, message = received
            server.send(peer, message)

        def note(message: Abort) -> None:
            heard.append(message.request_id)
            if len(heard) == 3000:
                done.set()

        readers = [Reader(server, echo), Reader(client, note)]
        for number in range(3000):
            client.send(abort(number))
            if number % 100 == 0:
                await asyncio.sleep(0)
        await asyncio.wait_for(done.wait(), 20)
        for reader in readers:
            reader.close()
        client.close()
        server.close()
        return heard

    assert asyncio.run(talk()) == list(range(3000))


def test_a_handler_that_fails_does_not_stop_the_reader(tmp_path, caplog):
    async def talk() -> list[int]:
        server = Server(f"ipc://{tmp_path}/f.sock", ToEngine)
        client = Client(server.address, "me", ToEngine)
        heard: list[int] = []
        done = asyncio.Event()

        def handle(received: tuple[str, Abort]) -> None:
            if received[1].request_id == 0:
                raise ZeroDivisionError
            heard.append(received[1].request_id)
            done.set()

        reader = Reader(server, handle)
        client.send(abort(0))
        client.send(abort(1))
        await asyncio.wait_for(done.wait(), 20)
        reader.close()
        client.close()
        server.close()
        return heard

    assert asyncio.run(talk()) == [1]
    assert "could not be handled" in caplog.text


def test_tcp_admits_only_who_holds_the_key_file():
    keys, others = Keys.generate(), Keys.generate()
    server = Server("tcp://127.0.0.1:0", ToEngine, keys)
    friend = Client(server.address, "friend", ToEngine, keys)
    friend.send(abort(1))
    wait([server], 5)
    assert server.receive() == ("friend", abort(1))
    stranger = Client(server.address, "stranger", ToEngine, others)
    stranger.send(abort(2))
    wait([server], 0.5)
    assert server.receive() is None
    for link in (server, friend, stranger):
        link.close()


def test_a_client_with_another_secret_is_refused_although_it_knows_the_public_key(monkeypatch):
    keys, others = Keys.generate(), Keys.generate()
    server = Server("tcp://127.0.0.1:0", ToEngine, keys)

    def with_a_foreign_secret(socket, _keys, is_server):
        socket.curve_publickey = others.public.encode()
        socket.curve_secretkey = others.secret.encode()
        socket.curve_serverkey = keys.public.encode()

    monkeypatch.setattr("quire.shared.link._secure", with_a_foreign_secret)
    stranger = Client(server.address, "stranger", ToEngine, others)
    stranger.send(abort(2))
    wait([server], 0.5)
    assert server.receive() is None
    server.close()
    stranger.close()


def test_a_key_file_open_to_others_is_refused(tmp_path):
    file = tmp_path / "keys"
    file.write_text('{"public": "a", "secret": "b"}')
    file.chmod(0o644)
    with pytest.raises(ValueError, match="0600"):
        Keys.load(file)
    file.chmod(0o600)
    assert Keys.load(file) == Keys("a", "b")


def test_a_submit_travels_whole(server, client):
    from quire.shared.messages import History, SamplingParams

    message = Submit(
        RequestId(2**62),
        b"\x01\x00\x00\x00",
        2,
        SamplingParams(max_tokens=3, logit_bias={5: 1.5}, seed=2**64 - 1, allowed_token_ids=[1]),
        -1,
        1.25,
        "salt",
        [History(b"", 0), History(b"\x01\x00\x00\x00", 4, True)],
    )
    client.send(message)
    wait([server], 5)
    assert server.receive() == ("me", message)
