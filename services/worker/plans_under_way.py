"""Plans that were handed to the model runner and not answered yet: who asked, and what the host's part of each took.

Between the worker's loop and its runner. Knows no tensors.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from quire.shared.messages import Masks, Plan, StepResult
from quire.shared.metrics import Metrics


class Runner(Protocol):
    """Of a ModelRunner what this needs."""

    def submit(self, plan: Plan, wait_for_masks: Callable[[int], Masks]) -> None: ...

    def collect(self) -> list[StepResult]: ...

    def fileno(self) -> int | None: ...


class PlansUnderWay:
    """Answers come in the order of plans."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._peers: deque[str] = deque()
        self._metrics = Metrics()
        self._host_time = self._metrics.histogram("quire_worker_host_seconds")
        self._masks_wait = self._metrics.histogram("quire_masks_wait_seconds")

    def submit(self, peer: str, plan: Plan, received: float, wait_for_masks: Callable[[int], Masks]) -> None:
        """`received`: of time.perf_counter, before the plan was decoded. Raises PlanError, StepAbandoned."""
        waited = 0.0

        def masks(step: int) -> Masks:
            nonlocal waited
            start = time.perf_counter()
            found = wait_for_masks(step)
            waited = time.perf_counter() - start
            self._masks_wait.observe(waited)
            return found

        self._runner.submit(plan, masks)
        self._peers.append(peer)
        if self._runner.fileno() is not None:  # else the step itself was computed meanwhile
            self._host_time.observe(time.perf_counter() - received - waited)

    def answers(self) -> list[tuple[str, StepResult]]:
        """Those that are there, each with the peer that asked; never waits."""
        # Asked even if nothing is awaited: a descriptor may have become readable after its answer was collected.
        return [(self._peers.popleft(), result) for result in self._runner.collect()]

    def forget(self) -> None:
        """A new configuration: nobody waits for answers to what was before."""
        self._peers.clear()

    @property
    def descriptor(self) -> int | None:
        """What is readable when there are answers."""
        return self._runner.fileno()

    def samples(self) -> dict[str, float]:
        return self._metrics.snapshot()
