"""The HTTP port is taken before anything starts, shared by our frontends and nobody else."""

from __future__ import annotations

import socket

import pytest

from quire.services.launcher.preflight import LaunchError, check_tensor_parallel, reserve_port


def listener(port: int, shared: bool) -> socket.socket:
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind(("127.0.0.1", port))
    opened.listen()
    return opened


def test_port_zero_takes_a_free_one() -> None:
    holder, port = reserve_port("127.0.0.1", 0)
    with holder:
        assert port > 0


def test_several_frontends_can_listen_on_a_reserved_port() -> None:
    holder, port = reserve_port("127.0.0.1", 0)
    with holder, listener(port, shared=True), listener(port, shared=True):
        socket.create_connection(("127.0.0.1", port)).close()


@pytest.mark.parametrize("shared", [False, True])
def test_a_port_somebody_listens_on_is_refused(shared: bool) -> None:
    with listener(0, shared) as other:
        port = other.getsockname()[1]
        with pytest.raises(LaunchError, match=f"port {port} on 127.0.0.1 is in use"):
            reserve_port("127.0.0.1", port)


def test_a_port_another_server_has_reserved_is_refused() -> None:
    holder, port = reserve_port("127.0.0.1", 0)
    with holder, pytest.raises(LaunchError, match="in use"):
        reserve_port("127.0.0.1", port)


def test_a_port_just_given_up_can_be_taken_at_once() -> None:
    holder, port = reserve_port("127.0.0.1", 0)
    with holder, listener(port, shared=True) as server:
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the server's end closes first: its side of the connection lingers in TIME_WAIT
        client.close()
    holder, again = reserve_port("127.0.0.1", port)
    with holder, listener(port, shared=True):
        assert again == port


def test_an_unknown_host_is_a_sentence() -> None:
    with pytest.raises(LaunchError, match="--host 256.0.0.1"):
        reserve_port("256.0.0.1", 0)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (
            {"tensor_parallel_size": 4},
            "--tensor-parallel-size 4 does not divide the model's num_attention_heads 6; possible: 2",
        ),
        ({"tensor_parallel_size": 3}, "does not divide the model's intermediate_size 512"),
        ({"tensor_parallel_size": 2, "device": "cuda"}, "needs a GPU for each rank, and there are 1; lower it"),
    ],
)
def test_ranks_that_cannot_be_are_refused(values, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0" if "device" in values else "0,1,2,3")
    with pytest.raises(LaunchError, match=sentence):
        check_tensor_parallel(values)


def test_ranks_that_divide_the_model_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    check_tensor_parallel({"tensor_parallel_size": 2, "device": "cpu"})
    check_tensor_parallel({"tensor_parallel_size": 1})
    check_tensor_parallel({"tensor_parallel_size": 3, "device": "cpu", "model": "someone/some-model"})
