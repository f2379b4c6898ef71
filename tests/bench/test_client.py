"""The load client against a small server: frames however they are cut, ends however they come."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.client import LoadClient, Target
from bench.response import Answer, FrameParser

FRAMES = [
    b'{"choices":[{"delta":{"role":"assistant","content":""}}]}',
    b'{"choices":[{"delta":{"content":"a\\n\\nb"}}]}',
    b'{"choices":[{"delta":{"content":" \xc3\xa9"}}]}',
    b'{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}',
    b"[DONE]",
]


def pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in zip(edges, edges[1:], strict=False) if start < end]


def event_stream(line_end: bytes = b"\n", between: bytes = b"") -> bytes:
    return b"".join(b"data: " + frame + line_end * 2 + between for frame in FRAMES)


def http_stream(body: Sequence[bytes]) -> bytes:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in body) + b"0\r\n\r\n"


@given(cuts=st.lists(st.integers(0, 1000), max_size=30), line_end=st.sampled_from([b"\n", b"\r\n"]))
@settings(max_examples=200, deadline=None)
def test_frames_are_the_same_however_the_bytes_are_split(cuts: list[int], line_end: bytes) -> None:
    comment = b": keep-alive" + line_end * 2
    found: list[bytes] = []
    parser = FrameParser(found.append)
    for piece in pieces(event_stream(line_end, comment), cuts):
        parser.feed(piece)
    assert found == FRAMES


def test_frame_of_several_lines_is_joined_and_event_names_are_skipped() -> None:
    found: list[bytes] = []
    FrameParser(found.append).feed(b"event: message\ndata: one\ndata:two\nid: 3\n\n\ndata: three\n\n")
    assert found == [b"one\ntwo", b"three"]


async def answers(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
    count: int = 1,
    **options: Any,
) -> tuple[list[Answer], int]:
    """Answers to `count` requests, one after another, and the connections they took."""
    handlers: list[asyncio.Task[Any] | None] = []

    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError):
            await serve(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_server(whole, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    client = LoadClient(Target.parse(f"http://127.0.0.1:{port}/v1", "secret"), **options)
    found = [await client.post("/v1/completions", b"{}") for _ in range(count)]
    client.close()
    server.close()
    await asyncio.gather(*(handler for handler in handlers if handler is not None))
    return found, len(handlers)


async def one_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(2)


def sending(response: bytes, cuts: Sequence[int] = ()) -> Callable[..., Coroutine[Any, Any, None]]:
    """Answers every request of a connection with `response`, in pieces."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                await one_request(reader)
            except asyncio.IncompleteReadError:
                return
            for piece in pieces(response, cuts):
                writer.write(piece)
                await asyncio.sleep(0)

    return serve


@given(cuts=st.lists(st.integers(0, 2000), max_size=8), chunks=st.lists(st.integers(0, 2000), max_size=8))
@settings(max_examples=40, deadline=None)
def test_stream_is_the_same_however_chunks_and_packets_fall(cuts: list[int], chunks: list[int]) -> None:
    response = http_stream(pieces(event_stream(), chunks))
    (answer,), _ = asyncio.run(answers(sending(response, cuts), keeps_texts=True))
    assert answer.error == "" and answer.status == 200 and answer.is_done
    assert answer.texts == FRAMES[1:3] and len(answer.arrivals) == 2
    assert answer.last_frame == FRAMES[3]
    assert answer.sent <= answer.headers_at <= answer.arrivals[0] <= answer.arrivals[-1] <= answer.ended


def test_connections_are_used_again_or_not_as_told() -> None:
    response = http_stream([event_stream()])
    assert asyncio.run(answers(sending(response), count=3))[1] == 1
    assert asyncio.run(answers(sending(response), count=3, keeps_alive=False))[1] == 3


def test_request_carries_key_and_length() -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await one_request(reader))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    (answer,), _ = asyncio.run(answers(serve))
    assert b"Authorization: Bearer secret\r\n" in seen[0] and b"Content-Length: 2\r\n" in seen[0]
    assert seen[0].startswith(b"POST /v1/completions HTTP/1.1\r\n")
    assert answer.last_frame == b"{}" and answer.error == "" and len(answer.arrivals) == 1


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 2\r\nContent-Length: 4\r\n\r\nbusy", "429: busy"),
        (http_stream([b'data: {"a":1}\n\n']), "the stream ended without [DONE]"),
        (http_stream([b'data: {"error":{"message":"no"}}\n\n']), '{"error":{"message":"no"}}'),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {}\n\n", "the stream ended without [DONE]"),
        (b"", "connection lost: closed by the server"),
        (b"nonsense\r\n\r\n", "not HTTP"),
    ],
)
def test_what_goes_wrong_is_an_error_of_the_answer(response: bytes, sentence: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await one_request(reader)
        writer.write(response)
        await writer.drain()

    (answer,), _ = asyncio.run(answers(serve))
    assert answer.error.startswith(sentence)


def test_nobody_listening_is_an_error_of_the_answer() -> None:
    async def ask() -> Answer:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # but not listening
            return await LoadClient(Target.parse(f"127.0.0.1:{closed.getsockname()[1]}")).get("/v1/models")

    assert asyncio.run(ask()).error.startswith("cannot connect")


def test_silent_server_is_given_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    (answer,), _ = asyncio.run(answers(serve, timeout_seconds=0.05))
    assert answer.error == "not finished after 0.05 s"


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://:80"])
def test_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not an http:// or https:// address"):
        Target.parse(url)


def test_address_may_end_with_v1_and_have_a_prefix() -> None:
    assert Target.parse("http://host:81/api/v1/").prefix == "/api"
    assert Target.parse("host:81").port == 81 and Target.parse("https://host").port == 443
