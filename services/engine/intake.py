"""The engine's intake: what tokenizers ask of it, from a Submit to the scheduler, and what is aborted or refused.

Called by service.py's loop with every Submit and Abort; answers Accepted and Refused. A request with a grammar is
held until that is compiled. Knows no plans and no workers: while there is no replica, all are refused.
"""

from __future__ import annotations

import time
from typing import Any

from quire.shared import errors
from quire.shared.link import Server, Waker
from quire.shared.messages import Abort, Accepted, Submit

from . import queue_deadlines
from .constrained import Constrained
from .grammars import GrammarError, Grammars, Guides
from .replica import Replica
from .request import Request
from .stats import Stats
from .step import Step
from .submission import refusal


class Intake:
    """`replica` is the engine's, or None while workers are not ready."""

    def __init__(self, server: Server[Any], stats: Stats, max_open_choices: int) -> None:
        self.replica: Replica | None = None
        self._server = server
        self._stats = stats
        self._max_open_choices = max_open_choices
        self._constrained = Constrained()

    @property
    def grammars(self) -> Grammars:
        return self._constrained.grammars

    @property
    def waker(self) -> Waker:
        """To be waited for: wakes the loop when a grammar is compiled."""
        return self._constrained.waker

    @property
    def num_held(self) -> int:
        """Choices that no scheduler has yet, since their grammar is awaited."""
        return self._constrained.num_choices

    # --- in -------------------------------------------------------------------------------------------

    def submit(self, peer: str, submit: Submit) -> None:
        if self._is_refused(peer, submit):
            return
        if submit.grammar is None:
            self._add(peer, submit, None)
        else:
            self._constrained.hold(peer, submit)

    def _is_refused(self, peer: str, submit: Submit) -> bool:
        """Whether this request was told no."""
        replica = self.replica
        key = (peer, submit.request_id)
        if replica is None:
            message = "the model is not ready"
            refused = errors.refused(submit.request_id, errors.SERVICE_UNAVAILABLE, message, retry_after_seconds=1.0)
        else:
            vocab_size, num_held = replica.facts.vocab_size, self._constrained.num_choices
            refused = refusal(submit, replica.scheduler, vocab_size, self._max_open_choices, num_held)
            if refused is None and (key in replica.scheduler.requests or key in self._constrained):
                refused = errors.refused(submit.request_id, errors.INVALID_REQUEST, "this request id is already open")
        if refused is None:
            return False
        self._server.send(peer, refused)
        return True

    def take_constrained(self) -> None:
        """Requests whose grammar is compiled go on; those whose grammar cannot be followed end here."""
        for held, outcome in self._constrained.take():
            if isinstance(outcome, GrammarError):
                refused = errors.refused(held.submit.request_id, errors.INVALID_VALUE, str(outcome), outcome.field)
                self._server.send(held.peer, refused)
            elif not self._is_refused(held.peer, held.submit):
                self._add(held.peer, held.submit, outcome)
                for abort in held.aborts:
                    self.abort(held.peer, abort)

    def _add(self, peer: str, submit: Submit, guides: Guides | None) -> None:
        replica = self.replica
        if replica is None:
            return
        request = replica.scheduler.add(peer, submit, time.monotonic(), guides)
        if not submit.is_suspect:
            self._accept(request)
        if submit.history:
            replica.committer.end_exhausted(request, time.monotonic())

    def _accept(self, request: Request) -> None:
        request.is_accepted = True
        self._server.send(request.peer, Accepted(request.submit.request_id, request.num_prompt_tokens))

    def accept_suspects(self, step: Step) -> None:
        """A suspect is accepted when it runs, so that its owner knows whether it was in the batch of a crash."""
        for row in step.rows:
            if not row.choice.request.is_accepted:
                self._accept(row.choice.request)

    # --- out ------------------------------------------------------------------------------------------

    def abort(self, peer: str, abort: Abort) -> None:
        if self._constrained.abort(peer, abort):
            return
        request = self.replica and self.replica.scheduler.requests.get((peer, abort.request_id))
        if not request:
            return  # it has ended on its own meanwhile
        self._end(request, abort.choice, "stop" if abort.cause == "stop_string" else "abort")

    def abort_peer(self, peer: str) -> None:
        """A tokenizer is gone, and with it whoever would read the answers."""
        self._constrained.drop_peer(peer)
        replica = self.replica
        if replica is not None:
            for request in [request for request in replica.scheduler.requests.values() if request.peer == peer]:
                self._end(request, None, "abort")

    def refuse_overdue(self, now: float) -> None:
        """Those that have waited to run for longer than their owner wants."""
        replica = self.replica
        for request in queue_deadlines.overdue(replica.scheduler, now) if replica is not None else ():
            self._server.send(request.peer, queue_deadlines.refusal(request))
            self._end(request, None, "abort")

    def _end(self, request: Request, index: int | None, reason: str) -> None:
        """One choice of it, or all that are open."""
        if self.replica is not None:
            for choice in self.replica.scheduler.abort(request, index):
                self._stats.finished(choice, reason, time.monotonic())
