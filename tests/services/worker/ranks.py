"""A tensor-parallel group in this process: a runner for each rank, in threads, over gloo on the loopback."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import torch.distributed as dist

from quire.services.worker.model_runner import ModelRunner
from quire.services.worker.tensor_parallel import RankGroup
from quire.shared.messages import Configure, Plan, StepResult, WorkerReady

T = TypeVar("T")


class Ranks:
    """Stands for one runner: each call goes to all ranks at once, and all must answer with the same bytes."""

    def __init__(self, folder: Path, size: int, dtype: str = "float32", **settings: Any) -> None:
        self._pool = ThreadPoolExecutor(size)
        self.groups = joined(size, self._pool)

        def load(rank: int) -> ModelRunner:
            return ModelRunner(folder, "cpu", dtype, threads=1, group=self.groups[rank], **settings)

        self.runners = self._together(load)
        self.config = self.runners[0].config

    def _together(self, call: Callable[[int], T]) -> list[T]:
        return list(self._pool.map(call, range(len(self.groups))))

    def configure(self, wanted: Configure) -> WorkerReady:
        ready = self._together(lambda rank: self.runners[rank].configure(wanted))
        assert len({one.num_blocks for one in ready}) == 1
        return ready[0]

    @property
    def limits(self) -> Any:
        return self.runners[0].limits

    def step(self, plan: Plan) -> StepResult:
        results = self._together(lambda rank: self.runners[rank].step(plan))
        answers = {msgspec.msgpack.encode(msgspec.structs.replace(one, seconds=0.0)) for one in results}
        assert len(answers) == 1, "ranks differ"
        return results[0]

    def close(self) -> None:
        self._pool.shutdown()


def joined(size: int, pool: ThreadPoolExecutor) -> list[RankGroup]:
    """The groups of `size` ranks that hear each other."""
    store = dist.HashStore()

    def join(rank: int) -> RankGroup:
        group = RankGroup(rank, size)
        options = dist.ProcessGroupGloo._Options()
        options._devices = [dist.ProcessGroupGloo.create_device(hostname="127.0.0.1")]
        options._timeout = timedelta(seconds=60)
        group.join(dist.ProcessGroupGloo(store, rank, size, options))
        return group

    return list(pool.map(join, range(size)))
