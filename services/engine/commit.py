"""Commit: what becomes of a step's result. Tokens are appended, ends are found, blocks are freed and offered.

A row whose choice has ended in the meantime was computed in vain and is passed over; that is the
price of planning a step ahead, at most one row a choice.
"""

from __future__ import annotations

from array import array

import msgspec

from quire.shared.messages import Finished, Started, StepResult

from .outbox import Columns, Outbox, prompt_logprobs_of
from .request import Choice, Request, Status
from .scheduler import Scheduler
from .stats import Stats
from .step import Step
from .stopping import COMPLETE, Ending, ending, stop_ids_of

NOT_FINITE = "the model's output for this request was not a number; it cannot be continued"


class Committer:
    """Applies results to the scheduler's choices and writes what clients get into the outbox."""

    def __init__(self, scheduler: Scheduler, outbox: Outbox, stats: Stats, eos_token_ids: frozenset[int]) -> None:
        self._scheduler = scheduler
        self._outbox = outbox
        self._stats = stats
        self._eos_token_ids = eos_token_ids

    def commit(self, step: Step, result: StepResult, now: float) -> None:
        """`result` is the answer to `step`'s plan; steps are committed in the order they were sent."""
        for entry in result.prompt_logprobs:
            row = step.rows[entry.row]
            if row.choice.index == 0:
                row.choice.request.prompt_logprobs[row.num_computed] = entry
        ids, tokens = result.token_ids, array("i")
        tokens.frombytes(ids)
        logprobs = {entry.row: entry for entry in result.logprobs}
        failed = frozenset(result.failed_rows)
        finished = Status.FINISHED
        latencies: list[float] = []
        block_size = self._scheduler.limits.block_size
        peer, columns = "", Columns()
        index = -1
        for row in step.rows:
            if not row.samples:
                continue
            index += 1
            choice = row.choice
            if choice.status is finished:
                continue
            if choice.num_in_vain:
                choice.num_in_vain -= 1
                choice.num_tokens -= 1
                continue
            if index in failed:
                self._fail(choice)
                continue
            request = choice.request
            if not choice.started and not request.submit.sampling.max_tokens:
                self._end_without_token(choice, now)
                continue
            token = tokens[index]
            choice.ids += ids[4 * index : 4 * index + 4]
            choice.num_known = num_known = choice.num_known + 1
            if request.peer is not peer:
                peer = request.peer
                columns = self._outbox.columns(peer)
            columns.add_token(request.id, choice.index, token)
            if index in logprobs:
                columns.logprobs.append(msgspec.structs.replace(logprobs[index], row=columns.last))
            if choice.started:
                latencies.append(now - choice.token_at)
            else:
                self._start(choice, columns, columns.last, now)
            choice.token_at = now
            if choice.guide is not None or num_known >= choice.limit or token in choice.stop_ids:
                self._end_or_go_on(choice, token, columns, now)
            if num_known % block_size == 0:
                self._scheduler.tables.offer(choice)
        self._stats.step(step.num_tokens, latencies)

    def _end_or_go_on(self, choice: Choice, token: int, columns: Columns, now: float) -> None:
        """After a token that may be its last."""
        end, place = ending(choice, token, self._eos_token_ids), columns.last
        if choice.guide is not None:
            choice.guide.advance(token)
            if choice.guide.error:
                self._end_with_error(choice, columns, place, choice.guide.error)
                return
            if choice.guide.is_complete and (end is None or end.reason == "length"):
                # In a row of its own: the token of a row that stops has no text, and this one's is shown.
                end, place = COMPLETE, columns.add(choice.request.id, choice.index, 0)
        if end is not None:
            columns.finished.append(Finished(place, end.reason, end.stop_reason))
            self._finish(choice, end, now)

    def _start(self, choice: Choice, columns: Columns, place: int, now: float) -> None:
        request = choice.request
        choice.started = True
        choice.stop_ids = stop_ids_of(choice, self._eos_token_ids)
        queued = choice.scheduled_at - request.arrival_monotonic
        columns.started.append(Started(place, choice.num_cached_tokens, queued))
        if choice.index == 0 and request.submit.sampling.prompt_logprobs is not None:
            columns.prompt_logprobs.append(prompt_logprobs_of(request.prompt_logprobs, place))
            request.prompt_logprobs = {}
        self._stats.first_token(request, choice, now)
        choice.first_token_at = now

    def _end_without_token(self, choice: Choice, now: float) -> None:
        """max_tokens is 0: the prompt was to be scored, nothing to be generated."""
        columns, place = self._outbox.nothing(choice)
        self._start(choice, columns, place, now)
        end = Ending("length")
        columns.finished.append(Finished(place, end.reason))
        self._finish(choice, end, now)

    def _finish(self, choice: Choice, end: Ending, now: float) -> None:
        self._scheduler.tables.offer(choice)
        self._scheduler.finish(choice)
        self._stats.finished(choice, end.reason, now)

    def _fail(self, choice: Choice) -> None:
        """Its logits were not finite: nothing it computed is reused, and it ends unless another may be the cause.

        What others computed of its prompt may have been spoilt and never looked at, for no row of theirs sampled
        since, or it was read before one did: then the choice computes all of its own, and goes on.
        """
        self._scheduler.tables.distrust(choice)
        self._stats.nan_row()
        if choice.has_hits and choice.trusts_cache:
            choice.trusts_cache = False
            choice.num_tokens -= 1
            choice.num_in_vain = choice.num_in_flight
            self._scheduler.recompute(choice)
            return
        self._end_with_error(choice, *self._outbox.nothing(choice), NOT_FINITE)

    def _end_with_error(self, choice: Choice, columns: Columns, place: int, message: str) -> None:
        self._scheduler.finish(choice)
        columns.finished.append(Finished(place, "error", message=message))

    def end_unsampled(self, choice: Choice, message: str) -> None:
        """No token is left to it, by its grammar or its bad words: the choice ends, and others go on."""
        self._end_with_error(choice, *self._outbox.nothing(choice), message)

    def end_exhausted(self, request: Request, now: float) -> None:
        """Choices of a resumed request that had all their tokens, but whose end was lost on the way."""
        for choice in list(request.choices):
            is_complete = choice.guide is not None and choice.guide.is_complete
            if is_complete or choice.num_tokens >= choice.limit:
                reason = COMPLETE.reason if is_complete else "length"
                columns, place = self._outbox.nothing(choice)
                columns.finished.append(Finished(place, reason))
                self._scheduler.finish(choice)
                self._stats.finished(choice, reason, now)

    def let_all_go(self, reason: str, message: str) -> None:
        """Every open choice ends here, `lost` or `moved`. The scheduler is to be thrown away after it."""
        for request in list(self._scheduler.requests.values()):
            for index in _open_choices(request):
                self._outbox.end(request.peer, request.submit.request_id, index, reason, message)
            self._scheduler.abort(request, None)


def _open_choices(request: Request) -> list[int]:
    """The indices that have not ended, forked or not."""
    ended = {choice.index for choice in request.choices if choice.status is Status.FINISHED}
    ended |= {index for index, history in enumerate(request.submit.history) if history.is_finished}
    return [index for index in range(request.submit.n) if index not in ended]
