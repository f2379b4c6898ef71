"""Results that leave the device late: nothing that a step gave is overwritten by the next before it has been copied."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint
from plans import Driver, ids_of, int32

from quire.services.worker.device_stream import ImmediateStream
from quire.services.worker.model_runner import ModelRunner
from quire.shared.messages import Plan


class LateStream(ImmediateStream):
    """Copies when somebody waits for it, and not before."""

    def __init__(self) -> None:
        self.pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.num_done = 0

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        self.pending.append((target, source))

    def record(self) -> Any:
        return LateEvent(self, len(self.pending))

    def run_up_to(self, end: int) -> None:
        for target, source in self.pending[self.num_done : end]:
            target.copy_(source)
        self.num_done = max(self.num_done, end)


class LateEvent:
    def __init__(self, stream: LateStream, end: int) -> None:
        self._stream = stream
        self._end = end

    def wait(self) -> None:
        with torch.inference_mode():
            self._stream.run_up_to(self._end)

    def is_done(self) -> bool:
        return self._stream.num_done >= self._end


class NoCompletion:
    """Waits for nothing: the test says when."""

    def watch(self, event: Any) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def clear(self) -> None:
        pass

    def close(self) -> None:
        pass


def prompt(length: int) -> list[int]:
    generator = random.Random(length)
    return [generator.randrange(384) for _ in range(length)]


def plans(driver: Driver) -> list[Plan]:
    """Of two rows, one with logprobs: prompts, then eight steps that know nothing of what came before."""
    rows = [driver.row(0, prompt(9), logprobs=2), driver.row(1, prompt(6), temperature=0.9, seed=3, prompt_logprobs=1)]
    for row in rows:
        row.blocks = driver.take_blocks(8)
    made = [driver.plan([(row, row.num_missing) for row in rows])]
    for step in range(2, 10):
        computed = int32(9 + step - 2, 6 + step - 2)
        made.append(Plan(step, [], [], b"", b"", b"", int32(0, 1), int32(1, 1), computed))
    return made


@pytest.mark.parametrize("is_eager", [True, False])
def test_two_steps_under_way_give_what_one_at_a_time_gives(tmp_path, monkeypatch, is_eager):
    folder = make_checkpoint("qwen3", tmp_path)
    runner = ModelRunner(folder, "cpu", "float32", threads=1, runner="device", enforce_eager=is_eager)
    expected = [runner.step(plan) for plan in plans(Driver(runner))]

    late = LateStream()
    monkeypatch.setattr("quire.services.worker.device_setup.side_stream", lambda device: late)
    monkeypatch.setattr("quire.services.worker.device_runner.Completion", NoCompletion)
    found = []
    under_way = 0
    for plan in plans(Driver(runner)):
        runner.submit(plan)
        under_way += 1
        if under_way == 2:
            # The step before has been copied out, for this one needed its place; this one has not.
            found += runner.collect()
            under_way = 1
        assert len(late.pending) > late.num_done
    assert len(found) == len(expected) - 1
    runner._runner().wait()
    found += runner.collect()
    for one, other in zip(expected, found, strict=True):
        assert ids_of(one.token_ids) == ids_of(other.token_ids)
        assert one.logprobs == other.logprobs and one.prompt_logprobs == other.prompt_logprobs
        assert one.failed_rows == other.failed_rows == []
