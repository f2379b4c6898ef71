"""What is left of clients that go away or read nothing: connections, requests, KV blocks, descriptors, memory.

`python bench/leftovers.py [flags of quire serve]` serves a model, connects and drops ten thousand times at
every stage of a request, then lets two hundred readers of long streams stall, and compares before and after.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

sys.path.append(str(Path(__file__).resolve().parent.parent))

import msgspec
from msgspec import Struct

from bench.peers.server import Server
from bench.recording import record, table, write
from bench.startup import memory_mib

PATH = "/v1/chat/completions"
MAX_MEMORY_MIB = 50.0
_IDLE = ('quire_kv_blocks{state="used"}', "vllm:num_requests_running", "vllm:num_requests_waiting")
_STAGES = 5


class Held(Struct):
    """What a server holds at a moment."""

    memory_mib: dict[str, float]
    """By service, and together."""
    descriptors: dict[str, int]
    """By process id."""
    connections: int
    in_flight: int


def chat(max_tokens: int, stream: bool = True) -> bytes:
    message = {"role": "user", "content": "Count from 1 to 500"}
    fields = {"messages": [message], "max_tokens": max_tokens, "ignore_eos": True, "temperature": 0, "stream": stream}
    return json.dumps(fields).encode()


def request(host: str, body: bytes) -> bytes:
    lines = (f"POST {PATH} HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def connect_and_drop(url: str, cycles: int) -> None:
    """Each cycle ends elsewhere: within the request, after it, before the first byte, in mid-stream."""
    host, port = _address(url)
    whole = [request(host, chat(300, stream)) for stream in (True, False)]
    for cycle in range(cycles):
        data = whole[cycle % 2]
        stage = cycle % _STAGES
        with socket.create_connection((host, port), timeout=60) as connection:
            connection.sendall(data[: cycle % len(data)] if stage == 0 else data)
            if stage == 1 and cycle % 2 == 0:
                connection.recv(1)
            elif stage == 2 and cycle % 2 == 0:
                connection.recv(1 << 20)
            elif stage == 3:
                time.sleep(0.005)
            elif stage == 4:  # a reset, and not an end
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


class SlowReaders:
    """Streams of which nobody reads a byte. A context: at its end the readers go away."""

    def __init__(self, url: str, count: int, max_tokens: int) -> None:
        self._address = _address(url)
        self._count = count
        self._request = request(self._address[0], chat(max_tokens))
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> SlowReaders:
        for _ in range(self._count):
            connection = self._stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            connection.settimeout(60)
            connection.connect(self._address)
            connection.sendall(self._request)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def samples(url: str) -> dict[str, float]:
    """/metrics by sample name, without the model's name."""
    found = {}
    for line in _get(url, "/metrics").decode().splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[re.sub(r'model_name="[^"]*",?', "", name).replace("{}", "")] = float(value)
    return found


def until_idle(url: str, seconds: float = 120.0) -> None:
    """Until no block is held and nothing runs, waits or is in flight. Raises RuntimeError with what is left."""
    end = time.monotonic() + seconds
    while True:
        seen = samples(url)
        busy = {name: seen[name] for name in (*_IDLE, "quire_requests_in_flight") if seen.get(name, 1.0)}
        if not busy:
            return
        if time.monotonic() > end:
            raise RuntimeError(f"after {seconds:.0f} s there is still {busy}")
        time.sleep(0.2)


def held(url: str, pids: Sequence[int]) -> Held:
    """`pids`: of the server, its first process first."""
    status = msgspec.json.decode(_get(url, "/status"))
    descriptors = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            descriptors[str(pid)] = len(os.listdir(f"/proc/{pid}/fd"))
    return Held(memory_mib(pids[0]), descriptors, status["connections"]["open"], status["in_flight"])


def left(before: Held, after: Held) -> dict[str, Any]:
    """What there is more than before; the largest of all processes' descriptors."""
    memory = {name: size - before.memory_mib.get(name, 0.0) for name, size in after.memory_mib.items()}
    more = [count - before.descriptors.get(pid, 0) for pid, count in after.descriptors.items()]
    return {
        "memory_mib": memory.pop("together"),
        "memory_mib_by_service": memory,
        # A KV cache is the kernel's until it is first written to.
        "memory_mib_without_workers": sum(more for name, more in memory.items() if not name.startswith("worker")),
        "descriptors": max(more, default=0),
        "connections": after.connections - before.connections,
        "in_flight": after.in_flight,
    }


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


def _get(url: str, path: str) -> bytes:
    with urllib.request.urlopen(url + path, timeout=60) as response:
        return response.read()


def _measure(options: argparse.Namespace, server: Server) -> dict[str, Any]:
    url, pids = server.url, server.process_ids()
    connect_and_drop(url, 200)  # what is made once: pools, caches, compiled products
    with SlowReaders(url, 8, options.max_tokens):
        time.sleep(1.0)
    until_idle(url)
    before, found = held(url, pids), {}
    begin = time.monotonic()
    for _ in range(10):
        connect_and_drop(url, options.cycles // 10)
        until_idle(url)
    found["connect and drop"] = {**left(before, held(url, pids)), "seconds": time.monotonic() - begin}
    begin = time.monotonic()
    with SlowReaders(url, options.readers, options.max_tokens):
        time.sleep(options.hold)
        found["slow readers, while they stall"] = left(before, held(url, pids))
        until_idle(url, 300.0)  # by --stall-timeout, or because all is sent
    until_idle(url)
    time.sleep(1.0)
    found["slow readers, after them"] = {**left(before, held(url, pids)), "seconds": time.monotonic() - begin}
    seen = samples(url)
    found["counted"] = {
        name: value for name, value in seen.items() if "aborts_total" in name or "dropped_total" in name
    }
    return found


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="leftovers.py", description="What is left of clients that go away.")
    add = made.add_argument
    add("--cycles", type=int, default=10_000, help="connections made and dropped (default: %(default)s)")
    add("--readers", type=int, default=200, help="that read nothing (default: %(default)s)")
    add("--max-tokens", type=int, default=3000, help="of each of their streams (default: %(default)s)")
    add("--hold", type=float, default=10.0, help="seconds before memory is looked at (default: %(default)s)")
    add("--within", type=float, default=120.0, help="seconds a start may take (default: %(default)s)")
    add("--out", help="JSON file; a bare name goes to bench/results/")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options, flags = parser().parse_known_args(argv)
    with tempfile.TemporaryDirectory(prefix="quire-bench-") as folder:
        words = [sys.executable, "-m", "quire", "serve", "--port", "{port}", "--run-dir", f"{folder}/run", *flags]
        server = Server("quire", " ".join(words), Path(folder), options.within)
        try:
            server.start()
            found = _measure(options, server)
        except (RuntimeError, OSError) as error:
            print(f"quire bench: {error}", file=sys.stderr)
            return 1
        finally:
            server.end()
    columns = ("memory_mib", "memory_mib_without_workers", "descriptors", "connections", "in_flight")
    rows = [(name, *(one[column] for column in columns)) for name, one in found.items() if "memory_mib" in one]
    print(table(("more than before", "memory MiB", "without workers", "descriptors", "connections", "in flight"), rows))
    most = max(one["memory_mib_without_workers"] for one in found.values() if "memory_mib" in one)
    print(f"\nbeside the KV cache memory grew by {most:.1f} MiB at most, {MAX_MEMORY_MIB:g} may be; {found['counted']}")
    if options.out:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        print(f"\nwritten to {write(record('leftovers', found, {**settings, 'flags': flags}), options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
