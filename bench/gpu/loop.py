"""The engine's scheduler over a model runner in this process, as many plans ahead as the engine sends.

So a step's time is what it is behind the engine, without the rest of the chain.
"""

from __future__ import annotations

import select
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from bench import offline
from quire.services.engine.commit import Committer
from quire.services.engine.outbox import Outbox
from quire.services.engine.scheduler import Scheduler
from quire.services.engine.stats import Stats
from quire.services.engine.step_builder import build_plan
from quire.shared.config import WorkerConfig
from quire.shared.flags import parse, parse_size
from quire.shared.messages import Configure, RequestId, SamplingParams, Submit
from quire.shared.model_config import ModelConfig

_DEPTH = 2


class Loop:
    """A loaded model, configured; `run` as often as wanted."""

    def __init__(self, flags: Sequence[str], rows: int, budget: int, max_model_len: int, kv_cache_memory: str) -> None:
        wanted = Configure(rows, budget, max_model_len, 16, parse_size(kv_cache_memory), 0.9)
        self._runner, self.facts = offline.load(parse(WorkerConfig, list(flags), prog="bench/gpu"), wanted)
        self.config: ModelConfig = self._runner.config
        self.weight_bytes = self._runner.weight_bytes
        self._scheduler = Scheduler(offline.limits_of(wanted, self.facts))
        self._outbox = Outbox()
        self._committer = Committer(self._scheduler, self._outbox, Stats(), frozenset(self.facts.eos_token_ids))
        self._number = 0
        self._requests = 0

    def run(
        self, prompts: Sequence[Sequence[int]], output_len: int, on_decode: Callable[[int], None] = lambda number: None
    ) -> tuple[list[list[int]], dict[str, list[float]]]:
        """All at once, greedy. The outputs, and seconds from result to result of steps that prefill, and of those in
        which every request has one token. on_decode(how many of those are done): before each result is awaited.
        """
        outputs: dict[int, list[int]] = {}
        sampling = SamplingParams(max_tokens=output_len, temperature=0.0, ignore_eos=True)
        for prompt in prompts:
            self._requests += 1
            outputs[self._requests] = []
            ids = array("i", prompt).tobytes()
            submit = Submit(RequestId(self._requests), ids, 1, sampling, 0, time.monotonic())
            self._scheduler.add("bench", submit, time.monotonic())
        in_flight: deque[Any] = deque()
        times: dict[str, list[float]] = {"prefill": [], "decode": []}
        last = time.perf_counter()
        was_decode = False
        while True:
            while len(in_flight) < _DEPTH and (step := self._scheduler.schedule(time.monotonic())) is not None:
                self._number += 1
                self._runner.submit(build_plan(self._number, step))
                in_flight.append(step)
            if not in_flight:
                break
            on_decode(len(times["decode"]))
            for result in self._results():
                step, now = in_flight.popleft(), time.perf_counter()
                if result.failed_rows:
                    raise RuntimeError("the model's output was not a number")
                is_decode = len(step.rows) == len(prompts) and all(row.num_scheduled == 1 for row in step.rows)
                if not is_decode:
                    times["prefill"].append(now - last)
                elif was_decode:
                    times["decode"].append(now - last)
                last, was_decode = now, is_decode
                self._committer.commit(step, result, time.monotonic())
            self._take(outputs)
        return list(outputs.values()), times

    def _results(self) -> list[Any]:
        while not (results := self._runner.collect()):
            descriptor = self._runner.fileno()
            if descriptor is not None:
                select.select([descriptor], [], [], 60.0)
        return results

    def _take(self, outputs: dict[int, list[int]]) -> None:
        for _, batch in self._outbox.flush():
            ids = array("i")
            ids.frombytes(batch.token_ids)
            start = 0
            for request_id, count in zip(batch.request_ids, batch.counts, strict=True):
                outputs[request_id] += ids[start : start + count]
                start += count
