"""The offline API's place in the chain: where a frontend is, without HTTP.

Sends jobs to the tokenizers as Generate and gathers TextBatch rows into their outputs. Used by one
thread, offline_session.py's. Knows no processes.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from typing import Any

from quire.shared.config import ServiceConfig
from quire.shared.link import wait
from quire.shared.messages import (
    RESUMABLE,
    Abort,
    Accepted,
    Finished,
    Generate,
    GenerationDefaults,
    History,
    LogprobEntry,
    ModelCard,
    Prompt,
    Refused,
    Report,
    RequestId,
    TextBatch,
    ToFrontend,
)
from quire.shared.neighbours import POLL_SECONDS, Below
from quire.shared.request_ids import RequestIds
from quire.shared.service import Service

from .offline_params import Completion, Delta, Output, SamplingParams, TokenLogprob

_OVERLOADED = (429, 503)


class Job:
    """One prompt on its way. Both callbacks are called by the session's thread."""

    __slots__ = ("history", "num_open", "on_delta", "on_end", "output", "params", "prompt", "request_id", "tokenizer")

    def __init__(
        self,
        prompt: Prompt,
        params: SamplingParams,
        on_end: Callable[[Job], None] = lambda job: None,
        on_delta: Callable[[Delta], None] | None = None,
    ) -> None:
        self.prompt = prompt
        self.params = params
        self.on_end = on_end
        self.on_delta = on_delta
        self.history: list[History] = []
        self.output = Output([], [Completion(index) for index in range(max(1, params.n))])
        self.num_open = len(self.output.choices)
        """Choices without an end."""
        self.request_id = RequestId(0)
        self.tokenizer = ""

    def fail(self, message: str) -> None:
        self.output.error = message
        for choice in self.output.choices:
            choice.finish_reason = choice.finish_reason or "error"
        self.num_open = 0
        self.on_end(self)


class OfflineLink:
    """Dials the tokenizers in a run directory under a name of its own."""

    def __init__(self, run_dir: str) -> None:
        self._service = Service("llm", ServiceConfig(run_dir=run_dir, name="llm-0"))
        # Nobody dials us: the entry is there so that tokenizers can see that we live.
        self._service.registration.announce(self._service.directory.socket_address("llm-0"))
        self.name = self._service.name
        self.card: ModelCard | None = None
        self._ids = RequestIds()
        self._jobs: dict[RequestId, Job] = {}
        self.postponed: list[Job] = []
        """Refused because too much waited; they are to be sent again."""
        self._below: Below[ToFrontend] = Below(
            self._service, "tokenizer", ToFrontend, lambda name, client: None, self._lost
        )
        self._next_poll = 0.0

    @property
    def num_open(self) -> int:
        """Choices without an end."""
        return sum(job.num_open for job in self._jobs.values())

    def pump(self, timeout_seconds: float, bell: int | None = None) -> None:
        """Take what has come; waits for something at most so long, or until the descriptor `bell` can be read."""
        now = time.monotonic()
        if now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            self._below.poll()
        wait(list(self._below.links.values()), timeout_seconds, bell)
        for name, client in self._below.links.items():
            while (message := client.receive()) is not None:
                self._take(name, message)

    def send(self, job: Job) -> None:
        """To the tokenizer that has least of ours. Raises what encoding raises."""
        links = self._below.links
        if not links:
            job.fail("no tokenizer is running")
            return
        load = dict.fromkeys(links, 0)
        for other in self._jobs.values():
            load[other.tokenizer] = load.get(other.tokenizer, 0) + other.num_open
        job.tokenizer = min(links, key=lambda name: load[name])
        job.request_id = self._ids.next()
        generate = Generate(
            request_id=job.request_id,
            prompt=job.prompt,
            n=int(job.params.n),
            sampling=job.params.resolve(self.card.defaults if self.card else GenerationDefaults()),
            text=job.params.text_params(),
            priority=int(job.params.priority),
            arrival=time.time(),
            cache_salt=job.params.cache_salt,
            history=job.history,
            constraint=outputs.constraint() if (outputs := job.params.structured_outputs) is not None else None,
        )
        links[job.tokenizer].send(generate)
        self._jobs[job.request_id] = job

    def abort(self, job: Job) -> None:
        """Of a caller who is gone: what is still under way is of no use to anybody."""
        if job in self.postponed:
            self.postponed.remove(job)
        if self._jobs.pop(job.request_id, None) is not None and job.tokenizer in self._below.links:
            self._below.links[job.tokenizer].send(Abort(job.request_id, None, "client_gone"))

    def fail_all(self, message: str) -> None:
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.fail(message)

    def close(self) -> None:
        self._below.close()
        self._service.close()

    def _take(self, name: str, message: Any) -> None:
        match message:
            case Report():
                self._below.hear(name, message)
                self.card = message.card or self.card
            case Accepted():
                job = self._jobs.get(message.request_id)
                if job is not None:
                    job.output.prompt_ids = _ids(message.prompt_ids)
            case Refused():
                job = self._jobs.pop(message.request_id, None)
                if job is not None and message.status in _OVERLOADED:
                    self.postponed.append(job)
                elif job is not None:
                    job.fail(message.message)
            case TextBatch():
                self._take_batch(message)

    def _take_batch(self, batch: TextBatch) -> None:
        token_ids = _ids(batch.token_ids)
        logprobs = {entry.row: entry for entry in batch.logprobs}
        finished = {one.row: one for one in batch.finished}
        for started in batch.started:
            job = self._jobs.get(RequestId(batch.request_ids[started.row]))
            if job is not None:
                job.output.num_cached_tokens = max(job.output.num_cached_tokens, started.num_cached_tokens)
        for scored in batch.prompt_logprobs:
            job = self._jobs.get(RequestId(batch.request_ids[scored.row]))
            if job is not None:
                entries = zip(scored.tokens, scored.top, strict=False)
                job.output.prompt_logprobs = [None, *(_logprob(*entry) for entry in entries)]
        start = 0
        for row, request_id in enumerate(batch.request_ids):
            end = start + batch.counts[row]
            job = self._jobs.get(RequestId(request_id))
            if job is not None:
                delta = Delta(batch.choices[row], batch.texts[row], token_ids[start:end])
                if row in logprobs:
                    entries = zip(logprobs[row].tokens, logprobs[row].top, strict=False)
                    delta.logprobs = [_logprob(*entry) for entry in entries]
                self._add(job, delta, finished.get(row))
            start = end

    def _add(self, job: Job, delta: Delta, finished: Finished | None) -> None:
        """What is new of a choice, and its end if it has come."""
        choice = job.output.choices[delta.index]
        choice.text += delta.text
        choice.token_ids += delta.token_ids
        if delta.logprobs is not None:
            if choice.logprobs is None:
                choice.logprobs = []
            choice.logprobs += delta.logprobs
        if finished is not None:
            reason = "error" if finished.reason in RESUMABLE else finished.reason
            choice.finish_reason, choice.stop_reason = reason, finished.stop_reason
            delta.finish_reason, delta.stop_reason = reason, finished.stop_reason
            if reason == "error":
                job.output.error = finished.message or "the request failed"
        if job.on_delta is not None:
            job.on_delta(delta)
        if finished is not None:
            job.num_open -= 1
            if job.num_open == 0:
                del self._jobs[job.request_id]
                job.on_end(job)

    def _lost(self, name: str) -> None:
        for request_id, job in list(self._jobs.items()):
            if job.tokenizer == name:
                del self._jobs[request_id]
                job.fail("the tokenizer was lost")


def _ids(raw: bytes) -> list[int]:
    return array("i", raw).tolist()


def _logprob(entry: LogprobEntry, top: list[LogprobEntry]) -> TokenLogprob:
    return TokenLogprob(
        entry.token_id,
        entry.token.decode("utf-8", "replace"),
        entry.logprob,
        [(other.token_id, other.token.decode("utf-8", "replace"), other.logprob) for other in top],
    )
