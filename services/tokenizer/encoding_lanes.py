"""The encoding threads: requests queue here on their way from the event loop to the engine.

Three lanes, so that a long prompt holds up only long prompts, and what clients programmed only its like;
the first takes all that waits at once.
The event loop is called back with the outcomes. Knows nothing of what preparing means.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence

from quire.shared.errors import SERVER_OVERLOADED, refused
from quire.shared.messages import ChatPrompt, Generate, IdsPrompt, Prompt

from .preparation import Job, Outcome

_LONG_PROMPT_BYTES = 32_768
_MAX_BATCH = 32
_MAX_UNTRUSTED = 16
"""Waiting for the helper process, each for a second at most."""


class EncodingLanes:
    """`on_prepared(job, outcome)` is called on the loop, in the order of each lane; not for cancelled jobs."""

    def __init__(
        self,
        prepare: Callable[[list[Job]], list[Outcome]],
        on_prepared: Callable[[Job, Outcome], None],
        loop: asyncio.AbstractEventLoop,
        needs_helper: Callable[[Generate], bool] = lambda generate: False,
    ) -> None:
        self._needs_helper = needs_helper
        self._prepare = prepare
        self._on_prepared = on_prepared
        self._loop = loop
        self._short = _Lane("encode-short", self._run, _MAX_BATCH)
        self._long = _Lane("encode-long", self._run, 1)
        self._untrusted = _Lane("encode-untrusted", self._run, 1)

    def put(self, job: Job) -> None:
        if self._needs_helper(job.generate):
            self._put_untrusted(job)
            return
        is_long = _size(job.generate.prompt) > _LONG_PROMPT_BYTES
        (self._long if is_long else self._short).put(job)

    def _put_untrusted(self, job: Job) -> None:
        # Requests with one constraint wait as one: the first has it checked for all.
        programs = {waiting.generate.constraint or waiting.received for waiting in self._untrusted.jobs.copy()}
        if len(programs) < _MAX_UNTRUSTED or job.generate.constraint in programs:
            self._untrusted.put(job)
            return
        message = f"{_MAX_UNTRUSTED} requests wait with chat templates, schemas or grammars of their own to be checked"
        answer = refused(job.generate.request_id, SERVER_OVERLOADED, message, None, 1.0)
        self._loop.call_soon(self._deliver, [job], [answer])

    @property
    def num_waiting(self) -> int:
        return len(self._short.jobs) + len(self._long.jobs) + len(self._untrusted.jobs)

    def _run(self, jobs: list[Job]) -> None:
        live = [job for job in jobs if not job.is_cancelled]
        outcomes = self._prepare(live)
        self._loop.call_soon_threadsafe(self._deliver, live, outcomes)

    def _deliver(self, jobs: list[Job], outcomes: Sequence[Outcome]) -> None:
        for job, outcome in zip(jobs, outcomes, strict=True):
            if not job.is_cancelled:
                self._on_prepared(job, outcome)

    def close(self) -> None:
        """Threads end after what they are at; what waits is left."""
        self._short.close()
        self._long.close()
        self._untrusted.close()


def _size(prompt: Prompt) -> int:
    """Bytes or characters, whichever is at hand."""
    if isinstance(prompt, ChatPrompt):
        return len(prompt.messages_json) + len(prompt.tools_json) + len(prompt.documents_json)
    return len(prompt.token_ids) // 4 if isinstance(prompt, IdsPrompt) else len(prompt.text)


class _Lane:
    """A queue and the thread that empties it."""

    def __init__(self, name: str, run: Callable[[list[Job]], None], max_batch: int) -> None:
        self.jobs: deque[Job] = deque()
        self._run = run
        self._max_batch = max_batch
        self._wake = threading.Semaphore(0)
        self._is_open = True
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Job) -> None:
        self.jobs.append(job)
        self._wake.release()

    def _work(self) -> None:
        while True:
            self._wake.acquire()
            if not self._is_open:
                return
            batch: list[Job] = []
            while self.jobs and len(batch) < self._max_batch:
                batch.append(self.jobs.popleft())
            if batch:
                self._run(batch)

    def close(self) -> None:
        self._is_open = False
        self._wake.release()
        self._thread.join(timeout=5.0)
