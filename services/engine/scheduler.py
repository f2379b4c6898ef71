"""The scheduler: who computes how many tokens in the next step, and in which blocks.

Each step spends one token budget: running choices first, then waiting ones. There are no phases; a
choice's computed tokens catch up with its tokens, so chunked prefill, prefix hits, preemption, forks
and resuming are all the same case. It plans ahead: a row that will sample counts one token more at
once, before anyone knows which.
Knows no sockets and no messages but Submit; step_builder.py turns a Step into a Plan.
"""

from __future__ import annotations

from quire.shared.messages import History, Submit

from . import invariants
from .block_manager import BlockManager
from .block_tables import BlockTables
from .grammars import Guides
from .limits import Limits
from .policy import LOOK_AHEAD, MAX_SKIPS, PrecedenceList, precedence
from .prefix_cache import PrefixCache
from .request import Choice, Request, Status
from .slots import Slots
from .step import Row, Step
from .suspects import admissible


class Scheduler:
    """Holds every request of this engine, its queue, its blocks and its slots."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.cache = PrefixCache(limits.block_size, limits.prefix_caching)
        self.blocks = BlockManager(limits.num_blocks, self.cache)
        self.tables = BlockTables(limits, self.blocks, self.cache)
        self.slots = Slots(limits.max_num_seqs)
        self.waiting = PrecedenceList()
        self.running = PrecedenceList()
        self.requests: dict[tuple[str, int], Request] = {}
        self.suspects: set[Request] = set()
        """Those that must run alone; see suspects.py."""
        self.num_preemptions = 0

    @property
    def num_open_choices(self) -> int:
        """Choices promised an answer: waiting, running, and those not yet forked."""
        return sum(request.num_open for request in self.requests.values())

    # --- in and out ---------------------------------------------------------------------------------

    def add(self, peer: str, submit: Submit, now: float, guides: Guides | None = None) -> Request:
        """Queue a request whose bounds have been checked. With a history its choices go on where they were."""
        request = Request(peer, submit, now, guides)
        self.requests[peer, submit.request_id] = request
        if submit.is_suspect:
            self.suspects.add(request)
        if submit.history:
            for index, history in enumerate(submit.history):
                self._resume(request, index, history)
            if request.num_open == 0:
                self._forget(request)
        else:
            self._enqueue(request, 0)
        return request

    def _enqueue(self, request: Request, index: int, output_ids: bytes = b"") -> Choice:
        key = precedence(request, index, self.limits.schedule_policy)
        choice = Choice(request, index, key, self.cache.root(request.submit.cache_salt), output_ids)
        request.choices.append(choice)
        self.waiting.add(choice)
        return choice

    def _resume(self, request: Request, index: int, history: History) -> None:
        if history.is_finished:
            request.num_open -= 1
        else:
            self._enqueue(request, index, history.output_ids)

    def finish(self, choice: Choice) -> None:
        """Take a choice out and free all it holds. Rows of it still in flight are ignored at their commit."""
        if choice.status is Status.FINISHED:
            return
        (self.running if choice.status is Status.RUNNING else self.waiting).remove(choice)
        self._let_go(choice)
        choice.status = Status.FINISHED
        request = choice.request
        request.num_open -= 1
        if request.num_open == 0:
            self._forget(request)

    def abort(self, request: Request, index: int | None) -> list[Choice]:
        """End one choice, or all; returns those that were open. Unforked ones of an aborted first go on alone."""
        if index is None:
            request.num_open = sum(choice.status is not Status.FINISHED for choice in request.choices)
        elif any(choice.will_fork for choice in request.choices):
            self._fork(request)
        ended = [
            choice
            for choice in request.choices
            if choice.status is not Status.FINISHED and (index is None or choice.index == index)
        ]
        for choice in ended:
            self.finish(choice)
        if not ended and request.num_open == 0:
            self._forget(request)
        return ended

    def _forget(self, request: Request) -> None:
        del self.requests[request.peer, request.submit.request_id]
        self.suspects.discard(request)
        request.choices = []  # each knows the request: without this the two would wait for the cycle collector

    # --- one step -----------------------------------------------------------------------------------

    def schedule(self, now: float) -> Step | None:
        """The next step, or None when nothing can run now. What it plans counts as done from here on."""
        step = Step([], [], [])
        # Taken first: what is preempted or forked in this step waits for the next.
        candidates = self._candidates() if self.slots.num_free else []
        budget = self._schedule_running(step, self.limits.max_num_batched_tokens)
        budget = self._admit_waiting(step, candidates, budget, now)
        if candidates and not step.rows and not self.running and self._strip_waiting():
            budget = self._admit_waiting(step, self._candidates(), budget, now)
        if not step.rows:
            return None
        step.released = self.slots.collect_released()
        step.num_tokens = self.limits.max_num_batched_tokens - budget
        if step.num_tokens > len(step.rows):
            step.rows.sort(key=_is_longer)
        return step

    def _candidates(self) -> list[Choice]:
        return admissible(self.waiting, self.running) if self.suspects else list(self.waiting)

    def _schedule_running(self, step: Step, budget: int) -> int:
        """Give every running choice its next tokens, in order of precedence; returns what is left of the budget."""
        block_size = self.limits.block_size
        chunk_limit = self._chunk_limit()
        running, add = self.running, step.rows.append
        index = 0
        while index < len(running) and budget > 0:
            choice = running[index]
            index += 1
            num_tokens, num_computed = choice.num_tokens, choice.num_computed
            if num_tokens >= choice.limit:
                continue  # all there is to sample is in flight
            wanted = num_tokens - num_computed
            if wanted > 1:
                wanted -= self._adopt_hits(choice)
                reserve = len(running) - index  # each row after this one may want a token of the budget
                wanted = min(wanted, max(1, budget - reserve), chunk_limit, budget)
                budget -= wanted
                self._advance(step, choice, wanted)
                continue
            if num_computed == len(choice.blocks) * block_size and not self._grow_or_give_way(choice):
                index -= 1
                continue
            # What _advance comes to for one token, which is nearly every row of nearly every step.
            budget -= 1
            choice.num_computed = num_tokens
            choice.num_tokens = num_tokens + 1
            add(Row(choice, 1, num_computed, True))
            if choice.will_fork:
                self._fork(choice.request)
        return budget

    def _chunk_limit(self) -> int:
        """The most tokens of one row: all, but half the budget while others wait for theirs."""
        budget = self.limits.max_num_batched_tokens
        return max(1, budget // 2) if self.waiting else budget

    def _grow_or_give_way(self, choice: Choice) -> bool:
        """One block more for a running choice, at the cost of those after it; False when it was preempted itself."""
        while True:
            if self.tables.grow(choice):
                return True
            victim = self.running.victim(choice)
            self._preempt(victim or choice)
            if victim is None:
                return False

    def _preempt(self, choice: Choice) -> None:
        self.recompute(choice)
        choice.num_preemptions += 1
        self.num_preemptions += 1

    def recompute(self, choice: Choice) -> None:
        """Back to the queue; its tokens stay, its blocks go, and what it had computed is computed again."""
        (self.running if choice.status is Status.RUNNING else self.waiting).remove(choice)
        self._let_go(choice)
        choice.status = Status.WAITING
        self.waiting.add(choice)

    def _let_go(self, choice: Choice) -> None:
        self.tables.release(choice)
        if choice.slot >= 0:
            self.slots.release(choice.slot)
            choice.slot = -1

    def _advance(self, step: Step, choice: Choice, num_scheduled: int) -> None:
        """Plan `num_scheduled` tokens of a choice whose blocks are there."""
        before = choice.num_computed
        choice.num_computed = after = before + num_scheduled
        samples = after == choice.num_tokens
        step.rows.append(Row(choice, num_scheduled, before, samples))
        if samples:
            choice.num_tokens += 1
        if num_scheduled > 1:
            self.tables.offer(choice)
        if samples and choice.will_fork:
            self._fork(choice.request)

    # --- admission ----------------------------------------------------------------------------------

    def _admit_waiting(self, step: Step, candidates: list[Choice], budget: int, now: float) -> int:
        """Admit in order of precedence; what does not fit may be passed by a few, but not for ever.

        Returns what is left of the budget.
        """
        passed: list[Choice] = []
        for choice in candidates:
            if budget <= 0 or self.slots.num_free == 0 or len(passed) > LOOK_AHEAD:
                break
            if choice.num_in_flight:
                continue  # preempted a moment ago; its last token is still on its way
            num_scheduled = self._admit(step, choice, budget)
            if num_scheduled == 0:
                passed.append(choice)
                if choice.num_skips >= MAX_SKIPS and self.running:
                    break
                continue
            budget -= num_scheduled
            if not choice.scheduled_at:
                choice.scheduled_at = now
            for older in passed:
                older.num_skips += 1
        return budget

    def _admit(self, step: Step, choice: Choice, budget: int) -> int:
        """Give a waiting choice blocks for its known tokens, and a slot; returns its scheduled tokens, or 0."""
        is_fork = bool(choice.blocks)  # it shares its prompt's blocks and recomputes the last token
        tables = self.tables
        if not (tables.own_tail(choice, step.copies) if is_fork else tables.fill(choice, len(self.running))):
            return 0
        choice.slot = self.slots.take()
        choice.status = Status.RUNNING
        self.waiting.remove(choice)
        self.running.add(choice)
        num_scheduled = min(choice.num_tokens - choice.num_computed, budget, self._chunk_limit())
        self._advance(step, choice, num_scheduled)
        return num_scheduled

    def _adopt_hits(self, choice: Choice) -> int:
        """Let a running choice take over what others have computed of its prompt; returns its tokens."""
        num_adopted = self.tables.adopt(choice)
        if num_adopted:
            self.slots.release(choice.slot)
            choice.slot = self.slots.take()
        return num_adopted

    def _fork(self, request: Request) -> None:
        """Create the other choices of a request. They share the first one's prompt blocks if those are computed."""
        first = request.choices[0]
        first.will_fork = False
        is_computed = first.num_computed >= request.num_prompt_tokens
        for index in range(len(request.choices), request.submit.n):
            choice = self._enqueue(request, index)
            if is_computed:
                self.tables.share_prompt(first, choice)

    def _strip_waiting(self) -> bool:
        """Nothing runs and nothing fits: forks that wait with shared blocks give them up and start afresh."""
        holders = [choice for choice in self.waiting if choice.blocks]
        for choice in holders:
            self._let_go(choice)
        return bool(holders)

    def check(self) -> None:
        """Derive every invariant of blocks, cache and queues anew. Raises RuntimeError."""
        invariants.check(self)


def _is_longer(row: Row) -> bool:
    return row.num_scheduled > 1
