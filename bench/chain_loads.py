"""Streams through the chain, over HTTP or straight over a tokenizer's link, with the time of every frame.

Both loads ask for the same thing and give the same Streams, so that the cost of HTTP is the difference.
Know nothing of what is computed from the times.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
from msgspec import Struct, field

from bench.client import LoadClient, Target
from bench.deployment import Deployment
from bench.response import Response, monotonic
from quire.shared.config import FrontendConfig
from quire.shared.link import Client, Reader
from quire.shared.messages import (
    Accepted,
    ChatPrompt,
    Generate,
    Refused,
    Report,
    RequestId,
    SamplingParams,
    TextBatch,
    TextParams,
    ToFrontend,
)
from quire.shared.neighbours import Below
from quire.shared.request_ids import RequestIds
from quire.shared.service import Service

_READY_SECONDS = 60.0


class Stream(Struct):
    """What one request got; `texts` parallel to `arrivals` (seconds of CLOCK_MONOTONIC)."""

    sent: float
    arrivals: list[float] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ended: float = 0.0
    error: str = ""
    response: Response | None = None
    """What HTTP brought, still to be decoded."""


class _Delta(Struct):
    content: str | None = ""


class _Choice(Struct):
    delta: _Delta


class _Chunk(Struct):
    choices: list[_Choice]


_chunk_decoder = msgspec.json.Decoder(_Chunk)


class HttpLoad:
    """Through a frontend, as a client of the API."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        self._client = LoadClient(Target.parse(f"http://127.0.0.1:{deployment.port}"), keeps_texts=True)
        self._model = ""

    async def ready(self) -> None:
        """Raises RuntimeError when the chain does not become ready."""
        end = time.monotonic() + _READY_SECONDS
        while (answer := await self._client.get("/ready")).status != 200:
            self._deployment.check()
            if time.monotonic() > end:
                raise RuntimeError(f"not ready after {_READY_SECONDS:g} s: {answer.error}")
            await asyncio.sleep(0.05)
        models = msgspec.json.decode((await self._client.get("/v1/models")).last_frame)
        self._model = models["data"][0]["id"]

    async def stream(self, prompt: str, output_len: int) -> Stream:
        body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": output_len, "stream": True}
        encoded = msgspec.json.encode({**body, "model": self._model, "ignore_eos": True, "temperature": 0})
        response = await self._client.unparsed("POST", "/v1/chat/completions", encoded)
        return Stream(response.answer.sent, response=response)

    def decode(self, stream: Stream) -> None:
        """Bytes to texts and times, after the clock has stopped."""
        answer = stream.response.parse()  # type: ignore[union-attr]
        stream.arrivals, stream.ended, stream.error = answer.arrivals, answer.ended, answer.error
        stream.texts = [_chunk_decoder.decode(text).choices[0].delta.content or "" for text in answer.texts]

    def close(self) -> None:
        self._client.close()


class LinkLoad:
    """In a frontend's place: what a tokenizer sends, without HTTP."""

    def __init__(self, deployment: Deployment) -> None:
        self._deployment = deployment
        config = FrontendConfig(run_dir=str(deployment.run_dir), name="frontend-auto", port=0)
        self._service: Service[Any] = Service("frontend", config)
        self._server = self._service.listen(Report)  # found in the run directory, it counts as alive without Hellos
        self._ids = RequestIds()
        self._streams: dict[int, tuple[Stream, asyncio.Future[None]]] = {}
        self._links: dict[str, Client[Any]] = {}
        self._readers: list[Reader] = []
        self._ready: set[str] = set()
        self._turn = 0
        self._below: Below[Any] = Below(self._service, "tokenizer", ToFrontend, self._appear, self._vanish)

    async def ready(self) -> None:
        """Raises RuntimeError when the chain does not become ready."""
        end = time.monotonic() + _READY_SECONDS
        while len(self._ready) < sum(name.startswith("tokenizer") for name in self._deployment.processes):
            self._deployment.check()
            self._below.poll()
            if time.monotonic() > end:
                raise RuntimeError(f"no tokenizer was ready after {_READY_SECONDS:g} s")
            await asyncio.sleep(0.05)

    async def stream(self, prompt: str, output_len: int) -> Stream:
        request_id = self._ids.next()
        messages = msgspec.json.encode([{"role": "user", "content": prompt}])
        sampling = SamplingParams(max_tokens=output_len, temperature=0.0, ignore_eos=True)
        names = sorted(self._links)
        self._turn += 1
        stream, done = Stream(monotonic()), asyncio.get_running_loop().create_future()
        self._streams[request_id] = stream, done
        generate = Generate(
            RequestId(request_id), ChatPrompt(messages), 1, sampling, TextParams(), priority=0, arrival=time.time()
        )
        self._links[names[self._turn % len(names)]].send(generate)
        await done
        stream.ended = monotonic()
        return stream

    def decode(self, stream: Stream) -> None:
        """Nothing to do: texts come as texts."""

    def close(self) -> None:
        for reader in self._readers:
            reader.close()
        self._below.close()
        self._server.close()
        self._service.close()

    def _appear(self, name: str, link: Client[Any]) -> None:
        self._links[name] = link
        self._readers.append(Reader(link, lambda message: self._on_message(name, message)))

    def _vanish(self, name: str) -> None:
        del self._links[name]

    def _on_message(self, name: str, message: Any) -> None:
        match message:
            case TextBatch():
                self._on_batch(message)
            case Report():
                self._below.hear(name, message)
                if message.state == "ready":
                    self._ready.add(name)
            case Refused():
                self._end(message.request_id, message.message)
            case Accepted():
                pass

    def _on_batch(self, batch: TextBatch) -> None:
        now = monotonic()
        for request_id, text in zip(batch.request_ids, batch.texts, strict=True):
            if text and request_id in self._streams:
                stream = self._streams[request_id][0]
                stream.arrivals.append(now)
                stream.texts.append(text)
        for finished in batch.finished:
            self._end(batch.request_ids[finished.row], "" if finished.reason == "length" else finished.reason)

    def _end(self, request_id: int, error: str) -> None:
        stream, done = self._streams.pop(request_id)
        stream.error = error
        done.set_result(None)
