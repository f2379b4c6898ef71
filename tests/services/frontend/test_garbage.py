"""A request that has ended leaves nothing to the garbage collector, whose pauses every stream would notice."""

from __future__ import annotations

import asyncio
import functools
import gc
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from quire.services.frontend.authentication import Keys
from quire.services.frontend.server import Frontend
from quire.services.frontend.service import bind
from quire.shared.config import FrontendConfig
from quire.shared.service import Service

CHAT = [{"role": "user", "content": "hi"}]
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/completions", {"prompt": ["a", "b"], "n": 2, "stream": True, "logprobs": 2}),
    ("/v1/completions", {"prompt": "!long", "stream": True}),
    ("/v1/completions", {"prompt": "!error", "stream": True}),
    ("/v1/completions", {"prompt": "!error"}),
    ("/v1/completions", {"prompt": "!refuse", "stream": True}),
    ("/v1/completions", {"prompt": "!late"}),
    ("/v1/completions", {"prompt": "x", "temperature": 9}),
    ("/v1/completions", {"prompt": "x" * 200_000}),
    ("/v1/chat/completions", {"messages": CHAT}),
    ("/v1/chat/completions", {"messages": CHAT, "stream": True, "n": 2}),
    ("/v1/chat/completions", {"messages": "wrong"}),
    ("/v1/messages", {"messages": CHAT, "max_tokens": 5}),
    ("/v1/messages", {"messages": CHAT, "max_tokens": 5, "stream": True}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/responses", {"input": "hi", "stream": True, "store": False}),
    ("/tokenize", {"prompt": "hi"}),
    ("/nothing", {}),
]
GONE: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "!stuck", "stream": True}),
    ("/v1/completions", {"prompt": "!silent"}),
    ("/v1/responses", {"input": "!hang", "stream": True}),
    ("/tokenize", {"prompt": "!silent"}),
]
"""Their clients leave."""


def post(port: int, path: str, fields: dict[str, Any], is_enough: Callable[[], object] | None = None) -> None:
    """Ask, and take the whole answer, or leave when it is enough."""
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head + body)
        while is_enough is None and connection.recv(1 << 16):
            pass
        while is_enough is not None and not is_enough():
            time.sleep(0.005)


@pytest.fixture
def collector() -> Iterator[None]:
    """As it was: a frontend freezes what is there when it starts."""
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


async def ask_all(run_dir: Path, fake: Any) -> dict[str, Counter[str]]:
    """What is left of ours, by type, after each request that leaves something."""
    service = Service("frontend", FrontendConfig(run_dir=str(run_dir), name="frontend-0"))
    listening = bind("127.0.0.1", 0)
    frontend = Frontend(service, listening, Keys(()))
    running = asyncio.ensure_future(frontend.run())
    port = listening.getsockname()[1]
    while not any(report.state == "ready" for report in list(fake.reports.values())):
        await asyncio.sleep(0.01)
    try:
        return {
            f"{path} {str(fields)[:60]}": left
            for path, fields in REQUESTS
            if (left := await left_by(functools.partial(post, port, path, fields)))
        } | {
            f"{path} {fields}, whose client leaves": left
            for path, fields in GONE
            if (left := await left_by(functools.partial(leave, port, path, fields, fake)))
        }
    finally:
        os.kill(os.getpid(), signal.SIGTERM)
        await running
        service.close()


def leave(port: int, path: str, fields: dict[str, Any], fake: Any) -> None:
    """Ask, and go as soon as it is under way; returns when that is known below."""
    num_generates, num_aborts = len(fake.generates), len(fake.aborts)
    post(port, path, fields, lambda: len(fake.generates) > num_generates)
    while len(fake.aborts) == num_aborts:
        time.sleep(0.005)


async def left_by(ask: Callable[[], None]) -> Counter[str]:
    """Objects of ours that only the collector could end."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await asyncio.to_thread(ask)
        for _ in range(10):  # the connection and its tasks end
            await asyncio.sleep(0.002)
        gc.collect()
        names = (f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.garbage)
        return Counter(name for name in names if name.startswith("quire."))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


def test_no_request_leaves_anything_to_the_collector(fake: Any, run_dir: Path, collector: None) -> None:
    left = asyncio.run(ask_all(run_dir, fake))
    assert not left, left
