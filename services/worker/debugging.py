"""What a test may have a worker do before each step: fault points, and blocks filled with NaN until they are written.

A StepRunner in front of another one; without either flag there is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from quire.shared.config import WorkerConfig
from quire.shared.messages import Plan, StepResult

from .fault_points import FaultPoint, FaultPoints, ints, parse

if TYPE_CHECKING:
    from .kv_cache import KVCache
    from .step_runner import StepRunner, WaitForMasks

_NAN = float("nan")


class Debugging(Struct, frozen=True):
    """What was asked for."""

    points: tuple[FaultPoint, ...] = ()
    poisons_blocks: bool = False

    @classmethod
    def of(cls, config: WorkerConfig) -> Debugging:
        """Raises ValueError with a sentence."""
        return cls(tuple(parse(config.fault_points)) if config.fault_points else (), config.poison_blocks)

    def around(self, steps: StepRunner, cache: KVCache, block_size: int) -> StepRunner:
        return _DebuggedRunner(steps, cache, block_size, self) if self.points or self.poisons_blocks else steps


class _DebuggedRunner:
    def __init__(self, steps: StepRunner, cache: KVCache, block_size: int, wanted: Debugging) -> None:
        self._steps = steps
        self._cache = cache
        self._block_size = block_size
        self._faults = FaultPoints(wanted.points, block_size)
        self._poisons_blocks = wanted.poisons_blocks
        if self._poisons_blocks:
            cache.fill(None, _NAN)

    def submit(self, plan: Plan, wait_for_masks: WaitForMasks) -> None:
        if self._poisons_blocks and (fresh := fresh_blocks(plan, self._block_size)):
            self._cache.fill(fresh, _NAN)
        for row in self._faults.before(plan):
            self._cache.fill([row.block], _NAN)
        self._steps.submit(plan, wait_for_masks)

    def collect(self) -> list[StepResult]:
        return self._steps.collect()

    def wait(self) -> None:
        self._steps.wait()

    def fileno(self) -> int | None:
        return self._steps.fileno()

    def close(self) -> None:
        self._steps.close()


def fresh_blocks(plan: Plan, block_size: int) -> list[int]:
    """Blocks that rows got with this plan and of which nothing is computed: whatever is in them was another's."""
    fresh = list(ints(plan.added_block_ids))
    for row in plan.new_rows:
        num_begun = -(-row.num_computed_tokens // block_size)
        fresh += ints(row.block_ids)[num_begun:]
    return fresh
