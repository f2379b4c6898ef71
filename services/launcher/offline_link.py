"""The offline API's place in the chain: where a frontend is, without HTTP.

Sends Generate to the tokenizers and gathers TextBatch rows into outputs, a bounded number at once.
Used by one thread at a time. Knows no processes.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from quire.shared.config import ServiceConfig
from quire.shared.link import wait
from quire.shared.messages import (
    RESUMABLE,
    Abort,
    Accepted,
    Finished,
    Generate,
    GenerationDefaults,
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

from .offline_params import Completion, Output, SamplingParams, TokenLogprob

_WAIT_SECONDS = 0.05


class _Record(msgspec.Struct):
    output: Output
    tokenizer: str
    num_open: int
    """Choices without an end."""


class OfflineLink:
    """Dials the tokenizers in a run directory under a name of its own."""

    def __init__(self, run_dir: str) -> None:
        self._service = Service("llm", ServiceConfig(run_dir=run_dir, name="llm-0"))
        # Nobody dials us: the entry is there so that tokenizers can see that we live.
        self._service.registration.announce(self._service.directory.socket_address("llm-0"))
        self.name = self._service.name
        self.card: ModelCard | None = None
        self._ids = RequestIds()
        self._records: dict[RequestId, _Record] = {}
        self._below: Below[ToFrontend] = Below(
            self._service, "tokenizer", ToFrontend, lambda name, client: None, self._lost
        )
        self._next_poll = 0.0

    def run(self, requests: Sequence[tuple[Prompt, SamplingParams]], find_failure: Callable[[], str]) -> list[Output]:
        """All of these to their ends. `find_failure` says why there is no server any more, '' as long as there is."""
        outputs = [Output([], [Completion(index) for index in range(max(1, params.n))]) for _, params in requests]
        queue = deque(zip(requests, outputs, strict=True))
        try:
            while queue or self._records:
                failure = find_failure()
                if failure:
                    return self._fail_all(outputs, failure)
                while queue and self._has_room(queue[0][0][1].n):
                    (prompt, params), output = queue.popleft()
                    self._send(prompt, params, output)
                self.pump(_WAIT_SECONDS)
        finally:
            self._abort_all()
        return outputs

    def pump(self, timeout_seconds: float = 0.0) -> None:
        """Take what has come; waits for something at most so long."""
        now = time.monotonic()
        if now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            self._below.poll()
        links = self._below.links
        if timeout_seconds > 0:
            if links:
                wait(list(links.values()), timeout_seconds)
            else:
                time.sleep(timeout_seconds)
        for name, client in links.items():
            while (message := client.receive()) is not None:
                self._take(name, message)

    def close(self) -> None:
        self._below.close()
        self._service.close()

    def _has_room(self, num_choices: int) -> bool:
        """Twice what runs at once keeps the engine busy, and stays below what it refuses."""
        limit = 2 * (self.card.max_num_seqs if self.card else 1)
        num_open = sum(record.num_open for record in self._records.values())
        return not self._records or num_open + num_choices <= limit

    def _send(self, prompt: Prompt, params: SamplingParams, output: Output) -> None:
        links = self._below.links
        if not links:
            _fail(output, "no tokenizer is running")
            return
        load = dict.fromkeys(links, 0)
        for record in self._records.values():
            load[record.tokenizer] = load.get(record.tokenizer, 0) + record.num_open
        tokenizer = min(links, key=lambda name: load[name])
        request_id = self._ids.next()
        defaults = self.card.defaults if self.card else GenerationDefaults()
        generate = Generate(
            request_id=request_id,
            prompt=prompt,
            n=params.n,
            sampling=params.resolve(defaults),
            text=params.text_params(),
            priority=params.priority,
            arrival=time.time(),
        )
        self._records[request_id] = _Record(output, tokenizer, len(output.choices))
        links[tokenizer].send(generate)

    def _take(self, name: str, message: Any) -> None:
        match message:
            case Report():
                self._below.hear(name, message)
                self.card = message.card or self.card
            case Accepted():
                record = self._records.get(message.request_id)
                if record is not None:
                    record.output.prompt_ids = _ids(message.prompt_ids)
            case Refused():
                record = self._records.pop(message.request_id, None)
                if record is not None:
                    _fail(record.output, message.message)
            case TextBatch():
                self._take_batch(message)

    def _take_batch(self, batch: TextBatch) -> None:
        token_ids = _ids(batch.token_ids)
        logprobs = {entry.row: entry for entry in batch.logprobs}
        start = 0
        for row, request_id in enumerate(batch.request_ids):
            end = start + batch.counts[row]
            record = self._records.get(RequestId(request_id))
            if record is not None:
                choice = record.output.choices[batch.choices[row]]
                choice.text += batch.texts[row]
                choice.token_ids += token_ids[start:end]
                if row in logprobs:
                    entries = zip(logprobs[row].tokens, logprobs[row].top, strict=False)
                    choice.logprobs = (choice.logprobs or []) + [_logprob(*entry) for entry in entries]
            start = end
        for started in batch.started:
            record = self._records.get(RequestId(batch.request_ids[started.row]))
            if record is not None:
                record.output.num_cached_tokens = max(record.output.num_cached_tokens, started.num_cached_tokens)
        for finished in batch.finished:
            self._finish(batch, finished)

    def _finish(self, batch: TextBatch, finished: Finished) -> None:
        request_id = RequestId(batch.request_ids[finished.row])
        record = self._records.get(request_id)
        if record is None:
            return
        choice = record.output.choices[batch.choices[finished.row]]
        choice.finish_reason, choice.stop_reason = finished.reason, finished.stop_reason
        if finished.reason in ("error", *RESUMABLE):
            choice.finish_reason = "error"
            record.output.error = finished.message or "the request failed"
        record.num_open -= 1
        if record.num_open == 0:
            del self._records[request_id]

    def _lost(self, name: str) -> None:
        for request_id, record in list(self._records.items()):
            if record.tokenizer == name:
                del self._records[request_id]
                _fail(record.output, "the tokenizer was lost")

    def _fail_all(self, outputs: list[Output], failure: str) -> list[Output]:
        self._records.clear()
        for output in outputs:
            if any(not choice.finish_reason for choice in output.choices):
                _fail(output, failure)
        return outputs

    def _abort_all(self) -> None:
        """Of a caller who was interrupted: what is still under way is of no use to anybody."""
        links = self._below.links
        for request_id, record in self._records.items():
            if record.tokenizer in links:
                links[record.tokenizer].send(Abort(request_id, None, "client_gone"))
        self._records.clear()


def _fail(output: Output, message: str) -> None:
    output.error = message
    for choice in output.choices:
        choice.finish_reason = choice.finish_reason or "error"


def _ids(raw: bytes) -> list[int]:
    return array("i", raw).tolist()


def _logprob(entry: LogprobEntry, top: list[LogprobEntry]) -> TokenLogprob:
    return TokenLogprob(
        entry.token_id,
        entry.token.decode("utf-8", "replace"),
        entry.logprob,
        [(other.token_id, other.token.decode("utf-8", "replace"), other.logprob) for other in top],
    )
