"""Host time of a step with the device stubbed: what the worker and the engine spend on a plan, at 1 and 256 rows.

The device runner runs as on a GPU, but its copies stay on the host, its graphs replay nothing and its kernels launch
nothing. Worker: from a plan's bytes to its launch; its answer. Engine: schedule, plan and encode; decode and commit.
"""

from __future__ import annotations

import argparse
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import torch

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.recording import record, spread, table, write
from quire.services.engine.commit import Committer
from quire.services.engine.outbox import Outbox
from quire.services.engine.scheduler import Limits as SchedulerLimits
from quire.services.engine.scheduler import Scheduler
from quire.services.engine.stats import Stats
from quire.services.engine.step_builder import build_plan
from quire.services.worker.cuda_graphs import StepGraphs, sizes_for
from quire.services.worker.device_runner import DeviceRunner, Streams
from quire.services.worker.device_step import DeviceStep
from quire.services.worker.slot_lengths import Limits
from quire.shared.messages import Plan, RequestId, SamplingParams, StepResult, Submit

BLOCK_SIZE = 16
BUDGET = 512
"""Tokens of a step: every one is a graph's."""
PROMPT_LEN, OUTPUT_LEN = 16, 900
VOCAB_SIZE = 32000
MAX_MODEL_LEN = 1024
BARS_MICROSECONDS = {1: 200.0, 256: 600.0}


class _Event:
    def wait(self) -> None:
        pass

    def is_done(self) -> bool:
        return True


class _Stream:
    """Copies at once."""

    def issue(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        target.copy_(source)

    def record(self) -> _Event:
        return _Event()

    def follow(self, event: Any) -> None:
        pass

    def uses(self, tensor: torch.Tensor) -> None:
        pass


class _Graphs:
    def capture(self, work: Callable[[], Any]) -> Callable[[], None]:
        return lambda: None

    def used_bytes(self) -> int:
        return 0


class _Model:
    """Never asked: every step is a graph's."""

    def forward(self, *_: Any) -> torch.Tensor:
        raise RuntimeError("the stubbed model was asked to compute")

    compute_logits = forward


class _Cache:
    def copy_block_pairs(self, *_: Any) -> None:
        pass


def make_runner(num_rows: int, num_blocks: int) -> DeviceRunner:
    limits = Limits(num_rows, BUDGET, MAX_MODEL_LEN, BLOCK_SIZE, num_blocks, VOCAB_SIZE)
    stream: Any = _Stream()
    model: Any = _Model()
    cache: Any = _Cache()
    runner = DeviceRunner(model, cache, torch.zeros(2, 64), limits, [2], Streams(compute=stream, results=stream))
    runner.capture(StepGraphs(sizes_for(num_rows, BUDGET, limits.num_table_blocks)), _Graphs())
    with torch.inference_mode():
        runner._step.results.token_ids.fill_(5)
        runner._step.results.is_ok.fill_(True)
    DeviceStep.write = lambda self, packed, segments: None  # type: ignore[method-assign]
    return runner


class Loop:
    """An engine's scheduler and a worker's runner in one process, with the bytes that would go between them."""

    def __init__(self, num_rows: int) -> None:
        num_blocks = num_rows * (MAX_MODEL_LEN // BLOCK_SIZE + 2)
        self.runner = make_runner(num_rows, num_blocks)
        self.scheduler = Scheduler(SchedulerLimits(num_blocks, BLOCK_SIZE, num_rows, BUDGET, MAX_MODEL_LEN))
        self.outbox = Outbox()
        self.committer = Committer(self.scheduler, self.outbox, Stats(), frozenset([2]))
        self.times: dict[str, list[float]] = {name: [] for name in ("worker", "answer", "schedule", "commit")}
        self._encoder = msgspec.msgpack.Encoder()
        self._plans = msgspec.msgpack.Decoder(Plan)
        self._results = msgspec.msgpack.Decoder(StepResult)
        for number in range(num_rows):
            ids = array("i", [(7 * number + place) % VOCAB_SIZE for place in range(PROMPT_LEN)]).tobytes()
            params = SamplingParams(max_tokens=OUTPUT_LEN, temperature=0.7, seed=number, ignore_eos=True)
            self.scheduler.add("tokenizer-0", Submit(RequestId(number), ids, 1, params, 0, float(number)), 0.0)

    def run(self, num_steps: int) -> None:
        in_flight: list[Any] = []
        for number in range(num_steps):
            start = time.perf_counter()
            step = self.scheduler.schedule(float(number))
            if step is None:
                raise RuntimeError("there is nothing left to run")
            data = self._encoder.encode(build_plan(number, step))
            planned = time.perf_counter()
            self.runner.submit(self._plans.decode(data))
            launched = time.perf_counter()
            in_flight.append(step)
            results = [self._encoder.encode(result) for result in self.runner.collect()]
            answered = time.perf_counter()
            committed = 0.0
            for result in results:
                begin = time.perf_counter()
                self.committer.commit(in_flight.pop(0), self._results.decode(result), float(number))
                self.outbox.flush()
                committed += time.perf_counter() - begin
            spent = (launched - planned, answered - launched, planned - start, committed)
            for name, seconds in zip(("worker", "answer", "schedule", "commit"), spent, strict=True):
                self.times[name].append(seconds * 1e6)


def measure(num_rows: int, num_steps: int) -> dict[str, dict[str, float]]:
    """Microseconds a step, of decode steps alone."""
    loop = Loop(num_rows)
    loop.run(24)  # prompts, and first uses
    for times in loop.times.values():
        times.clear()
    loop.run(num_steps)
    loop.runner.close()
    engine = [a + b for a, b in zip(loop.times["schedule"], loop.times["commit"], strict=True)]
    return {name: spread(times) for name, times in {**loop.times, "engine": engine}.items()}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="host.py", description="Host time of a step, the device stubbed.")
    made.add_argument("--rows", type=int, nargs="+", default=[1, 256], help="(default: 1 256)")
    made.add_argument("--steps", type=int, default=400, help="that are measured, of each (default: %(default)s)")
    made.add_argument("--out", help="JSON file; a bare name goes to bench/results/")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    torch.set_num_threads(1)
    results = {str(rows): measure(rows, options.steps) for rows in options.rows}
    rows = [
        (f"{name}, {count} rows", found["p50"], found["p90"], found["p99"], BARS_MICROSECONDS.get(int(count), "-"))
        for count, parts in results.items()
        for name, found in parts.items()
    ]
    print(table(("host time, us", "p50", "p90", "p99", "bar"), rows))
    if options.out:
        print(f"written to {write(record('host', results, vars(options)), options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
