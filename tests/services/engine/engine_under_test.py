"""An engine without processes: scheduler and committer driven against the checking fake rows.

The fake rows stand for the workers and refuse any plan that breaks the contract; the answers of a
request alone on an engine of its own are the reference for every other way to run it.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable

from quire.services.engine.commit import Committer
from quire.services.engine.limits import Limits
from quire.services.engine.outbox import Outbox
from quire.services.engine.scheduler import Scheduler
from quire.services.engine.stats import Stats
from quire.services.engine.step import Step
from quire.services.engine.step_builder import build_plan
from quire.services.worker import fake_rows
from quire.shared.messages import Finished, History, Plan, RequestId, SamplingParams, Started, StepResult, Submit

EOS = 1
VOCAB = 500
PEER = "tokenizer-0"


def ids_bytes(ids) -> bytes:
    return array("i", ids).tobytes()


def submit(
    request_id: int,
    prompt,
    max_tokens: int = 8,
    n: int = 1,
    priority: int = 0,
    seed: int = 0,
    history: list[History] | None = None,
    **sampling,
) -> Submit:
    return Submit(
        RequestId(request_id),
        ids_bytes(prompt),
        n,
        SamplingParams(max_tokens=max_tokens, seed=seed, **sampling),
        priority,
        arrival=float(request_id),
        history=history or [],
    )


class Answer:
    """What came back for one choice."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.started: list[Started] = []
        self.finished: list[Finished] = []
        self.prompt_logprobs = []
        self.logprobs = []


class EngineUnderTest:
    """`step()` is one turn of the engine's loop with a worker that answers in order."""

    def __init__(
        self,
        num_blocks: int = 64,
        block_size: int = 4,
        max_num_seqs: int = 8,
        budget: int = 64,
        max_model_len: int = 128,
        depth: int = 2,
        eos_probability: float = 0.0,
        failure_probability: float = 0.0,
        policy: str = "fcfs",
        prefix_caching: bool = True,
        eos_token_ids: tuple[int, ...] = (EOS,),
        apply: Callable[[Plan], StepResult] | None = None,
        submit: Callable[[Plan], Callable[[], StepResult]] | None = None,
    ) -> None:
        """A worker to be used in place of the fake rows, which must allow as much as said here: `apply` answers a plan

        at once, `submit` says how the answer is had later.
        """
        self.depth = depth
        self.scheduler = Scheduler(
            Limits(num_blocks, block_size, max_num_seqs, budget, max_model_len, policy, prefix_caching)
        )
        self.outbox = Outbox()
        self.stats = Stats()
        self.committer = Committer(self.scheduler, self.outbox, self.stats, frozenset(eos_token_ids))
        tokens = fake_rows.Tokens(
            pool=tuple(range(2, VOCAB)),
            eos_token_ids=(EOS,),
            eos_probability=eos_probability,
            failure_probability=failure_probability,
        )
        limits = fake_rows.Limits(max_num_seqs, budget, max_model_len, block_size, num_blocks)
        self.apply = apply or fake_rows.FakeRows(limits, tokens).apply
        self.submit = submit or self._answered
        self.plans: list[Plan] = []
        self.steps: list[Step] = []
        self.in_flight: deque[tuple[Step, Callable[[], StepResult]]] = deque()
        self.answers: dict[tuple[int, int], Answer] = {}
        self.now = 0.0

    def add(self, request: Submit):
        return self.scheduler.add(PEER, request, self.now)

    def abort(self, request_id: int, choice: int | None = None) -> None:
        request = self.scheduler.requests.get((PEER, request_id))
        if request is not None:
            self.scheduler.abort(request, choice)
        self.scheduler.check()

    def plan(self) -> bool:
        """Send plans until `depth` are in flight; whether any was sent."""
        was_sent = False
        while len(self.in_flight) < self.depth:
            step = self.scheduler.schedule(self.now)
            if step is None:
                break
            plan = build_plan(len(self.plans), step)
            self.plans.append(plan)
            self.steps.append(step)
            self.in_flight.append((step, self.submit(plan)))
            was_sent = True
            self.scheduler.check()
        return was_sent

    def _answered(self, plan: Plan) -> Callable[[], StepResult]:
        result = self.apply(plan)
        return lambda: result

    def step(self) -> bool:
        """One result, then the next plans; whether anything happened."""
        self.now += 1.0
        was_busy = bool(self.in_flight)
        if self.in_flight:
            step, result_of = self.in_flight.popleft()
            self.committer.commit(step, result_of(), self.now)
            self.scheduler.check()
        was_busy |= self.plan()
        self._collect()
        return was_busy

    def run(self, max_steps: int = 2000) -> dict[tuple[int, int], Answer]:
        """Until nothing is left to do. Fails when the engine idles with open requests, or never ends."""
        for _ in range(max_steps):
            if not self.step():
                break
        else:
            raise AssertionError(f"not done after {max_steps} steps")
        assert not self.scheduler.requests, f"idle with {len(self.scheduler.requests)} open requests"
        assert self.scheduler.blocks.num_used == 0
        assert self.scheduler.slots.num_free == self.scheduler.limits.max_num_seqs
        return self.answers

    def _collect(self) -> None:
        for _, batch in self.outbox.flush():
            ids = array("i")
            ids.frombytes(batch.token_ids)
            keys = list(zip(batch.request_ids, batch.choices, strict=True))
            taken = 0
            for key, count in zip(keys, batch.counts, strict=True):
                answer = self.answers.setdefault(key, Answer())
                assert not answer.finished, f"{key} had a row after its end"
                answer.token_ids += ids[taken : taken + count]
                taken += count
            for field in ("started", "logprobs", "prompt_logprobs", "finished"):
                for entry in getattr(batch, field):
                    getattr(self.answers[keys[entry.row]], field).append(entry)


def alone(request: Submit, **engine) -> list[list[int]]:
    """The choices of a request on a roomy engine of its own, depth 1, no prefix cache: the reference."""
    settings = {
        "num_blocks": 256,
        "max_num_seqs": 16,
        "budget": 512,
        "depth": 1,
        "prefix_caching": False,
        "max_model_len": 256,
    }
    under_test = EngineUnderTest(**{**settings, **engine})
    under_test.add(request)
    answers = under_test.run()
    return [answers[request.request_id, index].token_ids for index in range(request.n)]
