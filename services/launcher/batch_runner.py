"""Sends the requests of a batch, some at once, and writes down what became of each; tries again where that helps.

Called by batch.py with a client and the two files. Knows statuses, no endpoint's fields.
"""

from __future__ import annotations

import http.client
import json
import random
import secrets
import threading
import time
from collections.abc import Iterator

import msgspec

from .api_client import ApiClient, ApiError
from .batch_file import BatchError, BatchInput, BatchOutput, BatchRequest, BatchResponse, BatchResults
from .terminal import Terminal

_OVERLOADED = (429, 503)
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
_LINE_SECONDS = 30.0
"""Between lines of progress where there is no terminal."""


class BatchRunner:
    """`run` returns the exit code.

    0 when every request has an answer or a refusal, 1 when running it again would ask for some, 130 when stopped.
    """

    def __init__(
        self,
        client: ApiClient,
        wanted: BatchInput,
        results: BatchResults,
        terminal: Terminal,
        concurrency: int,
        attempts: int,
    ) -> None:
        self._client = client
        self._results = results
        self._terminal = terminal
        self._attempts = attempts
        self._total = len(wanted)
        self._num_before = len(results.done)
        self._left = wanted.requests(results.done)
        self._num_threads = min(concurrency, self._total - self._num_before)
        self._lock = threading.Lock()
        self._num_done = self._num_refused = self._num_failed = 0
        self._stop = threading.Event()
        self._began = time.monotonic()
        self._next_line = self._began + _LINE_SECONDS

    def run(self) -> int:
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(self._num_threads)]
        for thread in threads:
            thread.start()
        try:
            self._show()
            while any(thread.is_alive() for thread in threads):
                self._stop.wait(0.1)
                self._show()
        except KeyboardInterrupt:
            self._stop.set()
            self._terminal.status("")
            self._terminal.line(
                f"stopped: {self._num_before + self._num_done} of {self._total} are done; run it again to go on"
            )
            return 130
        return self._finish()

    def _show(self) -> None:
        """In the status line of a terminal; elsewhere, in a log, as a line from time to time."""
        now = time.monotonic()
        done = self._num_before + self._num_done
        rate = self._num_done / max(1e-9, now - self._began)
        failed = f", {self._num_failed} failed" if self._num_failed else ""
        text = f"{done} of {self._total}, {rate:.1f} requests/s{failed}"
        self._terminal.status(f"    {self._terminal.bar(done / self._total)}  {text}")
        if not self._terminal.is_tty and now >= self._next_line:
            self._next_line = now + _LINE_SECONDS
            self._terminal.line(text)

    def _finish(self) -> int:
        self._terminal.status("")
        seconds = time.monotonic() - self._began
        before = f" beside {self._num_before} of an earlier run" if self._num_before else ""
        answered = self._num_done - self._num_refused - self._num_failed
        self._terminal.line(f"{answered} of {self._total} requests answered in {seconds:.1f} s{before}")
        if self._num_refused:
            self._terminal.line(self._terminal.red(f"{self._num_refused} refused; why is in the output"))
        if self._num_failed:
            self._terminal.line(self._terminal.red(f"{self._num_failed} got no answer; run it again to ask for them"))
        return 1 if self._num_failed else 0

    def _next(self) -> BatchRequest | None:
        with self._lock:
            return next(self._left, None)

    def _work(self) -> None:
        while not self._stop.is_set() and (request := self._next()) is not None:
            output = self._ask(request)
            if output is None:
                return  # stopped: it is asked again by the next run
            self._results.add(output)
            with self._lock:
                self._num_done += 1
                self._num_failed += not output.is_final
                self._num_refused += output.is_final and not output.is_answer

    def _ask(self, request: BatchRequest) -> BatchOutput | None:
        """What became of one request; None when the batch was stopped meanwhile."""
        body = json.loads(bytes(request.body))
        output = BatchOutput(f"batch_req_{secrets.token_hex(12)}", request.custom_id)
        pauses = _pauses()
        failures = 0
        while not self._stop.is_set():
            pause = next(pauses)
            try:
                answer = self._client.send("POST", request.url, body)
                with answer as opened:
                    content = opened.read()
            except (ApiError, OSError, http.client.HTTPException) as error:
                failures += 1
                output.error = BatchError("connection_failed", str(error))
            else:
                request_id = answer.header("x-request-id") or ""
                output.response = BatchResponse(answer.status, request_id, _json(content))
                output.error = None
                if output.is_final:
                    return output
                if answer.status in _OVERLOADED:  # the server says when; that is no failure
                    pause = max(pause, _seconds(answer.header("retry-after")))
                else:
                    failures += 1
            if failures >= self._attempts:
                return output
            self._stop.wait(pause)
        return None


def _pauses() -> Iterator[float]:
    """Seconds before each next attempt, doubling, none like another's."""
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause * random.uniform(0.5, 1.0)
        pause = min(_LONGEST_PAUSE_SECONDS, pause * 2)


def _seconds(header: str | None) -> float:
    try:
        return min(_LONGEST_PAUSE_SECONDS, max(0.0, float(header or 0)))
    except ValueError:
        return 0.0


def _json(content: bytes) -> msgspec.Raw:
    """The answer as it stands in the line; what is no JSON, of a proxy perhaps, as a text."""
    try:
        decoded = msgspec.json.decode(content)
        return msgspec.Raw(content if b"\n" not in content else msgspec.json.encode(decoded))
    except (msgspec.DecodeError, RecursionError):
        return msgspec.Raw(msgspec.json.encode(content.decode("utf-8", "replace")))
