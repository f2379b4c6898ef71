"""The thread between the callers of the offline API and the chain: takes jobs from any thread, some at once.

Owns the link and turns its loop; callers are told by their job's callbacks. Knows no processes.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from quire.shared.messages import ModelCard

from .offline_link import Job, OfflineLink

logger = logging.getLogger("quire.llm")

CLOSED = "this LLM is closed"

_TURN_SECONDS = 0.1
_PAUSE_SECONDS = 0.05
"""After a refusal for too much that waits."""


class OfflineSession:
    """`find_failure` says why there is no server any more, '' as long as there is one."""

    def __init__(self, run_dir: str, find_failure: Callable[[], str]) -> None:
        self._link = OfflineLink(run_dir)
        self.name = self._link.name
        self._find_failure = find_failure
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._unwanted: list[Job] = []
        self._is_stopping = False
        self._not_before = 0.0
        self.why_closed = CLOSED
        """What callers are told once nothing is taken any more."""
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="quire-link", daemon=True)
        self._thread.start()

    @property
    def card(self) -> ModelCard | None:
        return self._link.card

    def submit(self, jobs: Sequence[Job]) -> bool:
        """Whether they were taken; they are not once the session is closed. Returns at once."""
        with self._lock:
            if self._is_stopping:
                return False
            self._waiting.extend(jobs)
            self._ring()
        return True

    def run(
        self,
        jobs: Sequence[Job],
        on_end: Callable[[Job], None] = lambda job: None,
        on_turn: Callable[[], None] = lambda: None,
    ) -> None:
        """All of them to their ends; what fails has an error. Interrupted, it takes them back.

        on_end(job): by the session's thread; on_turn(): by the caller's, ten times a second.
        """
        if not jobs:
            return
        left = len(jobs)
        is_done = threading.Event()

        def end(job: Job) -> None:
            nonlocal left  # only the session's thread counts
            left -= 1
            on_end(job)
            if left == 0:
                is_done.set()

        for job in jobs:
            job.on_end = end
        if not self.submit(jobs):
            for job in jobs:
                job.fail(self.why_closed)
        try:
            while not is_done.wait(_TURN_SECONDS):
                on_turn()
        except BaseException:
            self.abort(jobs)
            raise

    def abort(self, jobs: Sequence[Job]) -> None:
        """They are of no use any more; none of their callbacks need come."""
        with self._lock:
            if self._is_stopping:
                return
            self._unwanted.extend(jobs)
            self._ring()

    def close(self) -> None:
        """What is under way ends with an error. Once."""
        with self._lock:
            self._is_stopping = True
        self._ring()
        self._thread.join()
        os.close(self._bell)

    def _ring(self) -> None:
        os.eventfd_write(self._bell, 1)

    def _run(self) -> None:
        failure = "this LLM was closed"
        try:
            failure = self._turn() or failure
        except Exception as error:
            logger.exception("the link to the model ended")
            failure = self.why_closed = f"the link to the model ended: {error!r}"
        with self._lock:
            self._is_stopping = True
        self._fail_all(failure)
        self._link.close()

    def _turn(self) -> str:
        """Until the session is closed; why nothing can be asked any more, if there was a reason."""
        failure = ""
        while not self._is_stopping:
            self._send_waiting()
            self._link.pump(_TURN_SECONDS, self._bell)
            if self._link.card is not None:
                self.is_ready.set()
            self._silence()
            self._take_back()
            self._drop_unwanted()
            if cause := self._find_failure():
                failure = cause
                self._fail_all(cause)
        return failure

    def _send_waiting(self) -> None:
        """Twice what runs at once keeps the engine busy, and stays below what it refuses."""
        card = self._link.card
        if card is None or not self._waiting or time.monotonic() < self._not_before:
            return
        num_open = self._link.num_open
        while self._waiting and (not num_open or num_open + self._waiting[0].num_open <= 2 * card.max_num_seqs):
            with self._lock:
                job = self._waiting.popleft()
            num_open += job.num_open
            try:
                self._link.send(job)
            except Exception as error:  # half a surrogate pair in a text, for example
                job.fail(f"it cannot be sent: {error}")

    def _take_back(self) -> None:
        """What was refused because too much waited goes to the front again, and all wait a moment."""
        postponed = self._link.postponed
        if postponed:
            self._not_before = time.monotonic() + _PAUSE_SECONDS
            with self._lock:
                self._waiting.extendleft(reversed(postponed))
            postponed.clear()

    def _drop_unwanted(self) -> None:
        with self._lock:
            unwanted, self._unwanted = self._unwanted, []
            if unwanted:
                gone = {id(job) for job in unwanted}
                self._waiting = deque(job for job in self._waiting if id(job) not in gone)
        for job in unwanted:
            self._link.abort(job)

    def _fail_all(self, cause: str) -> None:
        self._link.fail_all(cause)
        with self._lock:
            waiting, self._waiting = self._waiting, deque()
        for job in waiting:
            job.fail(cause)

    def _silence(self) -> None:
        try:
            os.eventfd_read(self._bell)
        except BlockingIOError:
            pass
