"""An engine under test whose steps may await masks: plans are made ahead, results computed when they are due.

Masks depend on the tokens of the step before, so a result is computed only once that one is committed.
"""

from __future__ import annotations

from collections.abc import Callable

from engine_under_test import EngineUnderTest

from quire.services.engine.masks import MaskBuilder
from quire.services.engine.step_builder import build_plan
from quire.shared.messages import Masks, Plan, StepResult


class MaskedEngine(EngineUnderTest):
    """`compute` answers a plan with its masks; to be set by who makes one."""

    compute: Callable[[Plan, Masks | None], StepResult]

    def __init__(self, vocab_size: int, **settings) -> None:
        super().__init__(**settings)
        self.masks = MaskBuilder(vocab_size)

    def plan(self) -> bool:
        was_sent = False
        while len(self.in_flight) < self.depth and (step := self.scheduler.schedule(self.now)) is not None:
            self.plans.append(build_plan(len(self.plans), step))
            self.in_flight.append((step, self.plans[-1]))
            was_sent = True
            self.scheduler.check()
        return was_sent

    def step(self) -> bool:
        self.now += 1.0
        was_busy = bool(self.in_flight)
        if self.in_flight:
            step, plan = self.in_flight[0]
            masks = None
            if plan.awaits_masks:
                masks, failed = self.masks.build(plan.step, step)
                for choice, message in failed:
                    self.committer.end_unsampled(choice, message)
            result = self.compute(plan, masks)
            self.in_flight.popleft()
            self.committer.commit(step, result, self.now)
            self.scheduler.check()
        was_busy |= self.plan()
        self._collect()
        return was_busy
