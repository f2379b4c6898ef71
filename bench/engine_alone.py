"""The engine and its worker without the rest: token ids in, token ids out, by the engine's own messages.

A client in a tokenizer's place, which keeps as much waiting as the engine takes and only counts what comes.
Knows no text.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from typing import Any

from quire.shared.config import ServiceConfig
from quire.shared.link import Client, wait
from quire.shared.messages import (
    Accepted,
    Refused,
    Report,
    SamplingParams,
    Submit,
    TokenBatch,
    ToTokenizerFromEngine,
)
from quire.shared.neighbours import POLL_SECONDS, Below
from quire.shared.request_ids import RequestIds
from quire.shared.service import Service

_PATIENCE_SECONDS = 60.0


class EngineAlone:
    """Dials the engine of a run directory. Raises RuntimeError when it is lost or leaves a prompt unanswered."""

    def __init__(self, run_dir: str) -> None:
        self._service = Service("bench", ServiceConfig(run_dir=run_dir, name="bench-0"))
        # Nobody dials us: the entry is there so that the engine can see that we live.
        self._service.registration.announce(self._service.directory.socket_address("bench-0"))
        self._below: Below[Any] = Below(
            self._service, "engine", ToTokenizerFromEngine, lambda name, client: None, self._lost
        )
        self._request_ids = RequestIds()
        self._next_poll = 0.0
        self._num_tokens = self._num_open = 0
        self._open: set[int] = set()
        self._is_ready = False

    @property
    def name(self) -> str:
        return self._service.name

    def run(self, prompts: Sequence[bytes], sampling: SamplingParams, most_open: int) -> int:
        """Answer every prompt (ids as int32 bytes), at most so many in the engine at once; how many tokens came."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not self._is_ready and time.monotonic() < deadline:
            self._pump(0.1)
        self._num_tokens = 0
        waiting = list(prompts)[::-1]
        while waiting or self._open:
            while waiting and len(self._open) < most_open:
                request_id = self._request_ids.next()
                self._open.add(request_id)
                self._engine.send(Submit(request_id, waiting.pop(), 1, sampling, 0, time.time()))
            self._pump(1.0)
        return self._num_tokens

    @property
    def _engine(self) -> Client[Any]:
        (client,) = self._below.links.values()
        return client

    def _pump(self, timeout_seconds: float) -> None:
        now = time.monotonic()
        if now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            self._below.poll()
        wait(list(self._below.links.values()), timeout_seconds)
        for name, client in self._below.links.items():
            while (message := client.receive()) is not None:
                self._take(name, message)

    def _take(self, name: str, message: Any) -> None:
        match message:
            case Report():
                self._below.hear(name, message)
                self._is_ready = message.state == "ready"
            case Refused():
                raise RuntimeError(f"the engine refused a prompt: {message.message}")
            case TokenBatch():
                self._num_tokens += sum(message.counts)
                self._open.difference_update(message.request_ids[end.row] for end in message.finished)
            case Accepted():
                pass

    def _lost(self, name: str) -> None:
        raise RuntimeError(f"{name} was lost")

    def close(self) -> None:
        self._below.close()
        self._service.close()


def as_bytes(prompts: Sequence[Sequence[int]]) -> list[bytes]:
    """Ids as messages carry them."""
    return [array("i", ids).tobytes() for ids in prompts]
