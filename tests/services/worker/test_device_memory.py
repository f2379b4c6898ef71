"""The room on a GPU, by numbers that a fake one tells: what others hold is neither ours nor free."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch

from quire.services.worker.device_memory import Numbers, Room, measure_room
from quire.services.worker.errors import DeviceError
from quire.services.worker.model_runner import ModelRunner
from quire.shared.messages import Configure
from quire.shared.model_files import DEMO_MODEL

GIB = 1 << 30
MIB = 1 << 20


class FakeMemory:
    """80 GiB; `elsewhere(n)` is what other processes hold at the n-th reading."""

    def __init__(self, weights: int, elsewhere: Callable[[int], int] = lambda n: 0, kept: int = 0) -> None:
        self.weights, self.kept, self.workspace, self.driver = weights, kept, 0, 0
        self.elsewhere = elsewhere
        self.num_readings = 0

    def read(self) -> Numbers:
        own = self.weights + self.kept + self.workspace
        others = self.elsewhere(self.num_readings) + self.driver
        self.num_readings += 1
        return Numbers(80 * GIB, 80 * GIB - own - others, own)

    def give_back(self) -> None:
        self.kept = self.workspace = 0


class FakeTrial:
    """Of steps that take 3 GiB, and of `captured` graphs that take 100 MiB and of the driver `of_graph` each."""

    def __init__(self, memory: FakeMemory, captured: int = 0, of_graph: int = 0, named_bytes: int = 0) -> None:
        self.memory, self.captured, self.of_graph, self.named_bytes = memory, captured, of_graph, named_bytes
        self.is_closed = False

    def steps(self) -> None:
        self.memory.workspace = 3 * GIB

    def some_graphs(self) -> tuple[int, int]:
        if self.captured:
            self.memory.workspace += 100 * MIB
            self.memory.driver += self.captured * self.of_graph
        return self.captured, 10 * self.captured

    def close(self) -> None:
        self.is_closed = True


def measured(memory: FakeMemory, utilization: float = 0.9, trial: FakeTrial | None = None) -> Room:
    return measure_room(memory, trial or FakeTrial(memory), utilization, pause=lambda seconds: None)


def test_the_workspace_is_what_the_trial_took_and_what_loading_kept_is_given_back():
    room = measured(FakeMemory(16 * GIB, kept=5 * GIB))
    assert (room.weights, room.workspace) == (16 * GIB, 3 * GIB)
    assert (room.free, room.limit) == (64 * GIB, 72 * GIB)


def test_what_steps_keep_under_a_name_of_its_own_is_no_workspace():
    memory = FakeMemory(16 * GIB)
    trial = FakeTrial(memory, named_bytes=GIB)
    assert measured(memory, trial=trial).workspace == 2 * GIB
    assert trial.is_closed


@pytest.mark.parametrize(("of_graph", "reckoned"), [(3 * MIB, 3 * MIB), (0, MIB), (500 * MIB, 16 * MIB)])
def test_graphs_take_the_memory_of_the_largest_and_of_the_driver_what_some_took_within_bounds(of_graph, reckoned):
    """Of the driver's memory all that is known is what is gone, which another process may have taken or given."""
    memory = FakeMemory(16 * GIB)
    room = measured(memory, trial=FakeTrial(memory, captured=4, of_graph=of_graph))
    assert room.graphs == 100 * MIB + 40 * reckoned
    assert (room.workspace, room.free) == (3 * GIB, 64 * GIB)


def test_what_a_driver_holds_is_not_blamed_on_other_processes(caplog):
    with caplog.at_level(logging.INFO, "quire.worker"):
        room = measured(FakeMemory(16 * GIB, lambda n: 700 * MIB * min(1, n // 2)), 1.0)
    assert room.limit == 79 * GIB - 700 * MIB and room.in_the_way == 0
    assert "other processes on the GPU went" not in caplog.text


def test_two_servers_of_a_share_each_have_it_whichever_starts_first():
    first = measured(FakeMemory(16 * GIB), 0.45)
    second = measured(FakeMemory(16 * GIB, lambda n: 36 * GIB), 0.45)
    assert first.limit == second.limit == 36 * GIB
    assert (second.weights, second.workspace) == (first.weights, first.workspace)


def test_no_more_is_taken_than_others_leave(caplog):
    with caplog.at_level(logging.INFO, "quire.worker"):
        room = measured(FakeMemory(16 * GIB, lambda n: 40 * GIB))
    assert room.limit == 39 * GIB
    assert (
        "other processes and the driver hold 40.00 GiB of the GPU's 80.00 GiB: this one may take 39.00 GiB"
        in caplog.text
    )


@pytest.mark.parametrize("moment", [1, 3, 5])
def test_a_server_that_loads_at_the_same_time_is_waited_for(moment):
    """It takes 2 GiB at each of ten readings, before, during or after the trial."""
    memory = FakeMemory(16 * GIB, lambda n: 2 * GIB * min(10, max(0, n - moment)))
    room = measured(memory)
    if memory.elsewhere(memory.num_readings - 1) == 20 * GIB:
        assert room.limit == 59 * GIB
    assert (room.weights, room.workspace) == (16 * GIB, 3 * GIB), "what others took is not ours"


def test_what_never_settles_is_said_with_what_to_do(caplog):
    with caplog.at_level(logging.WARNING, "quire.worker"):
        room = measured(FakeMemory(16 * GIB, lambda n: (n % 2) * 4 * GIB))
    assert "keep taking or giving back memory" in caplog.text and "lower --memory-utilization" in caplog.text
    assert (room.weights, room.workspace) == (16 * GIB, 3 * GIB)


def runner_on(memory: FakeMemory) -> ModelRunner:
    runner = ModelRunner(DEMO_MODEL, "cpu", "float32", threads=1)
    runner.device_memory = memory
    return runner


def test_a_configuration_is_planned_by_what_the_device_tells():
    memory = FakeMemory(16 * GIB)
    runner = runner_on(memory)
    compute = runner.model.compute_logits

    def computing(hidden: torch.Tensor) -> torch.Tensor:
        memory.workspace = 2 * GIB
        return compute(hidden)

    runner.model.compute_logits = computing
    ready = runner.configure(Configure(4, 64, 128, 16, None, 0.9))
    assert ready.memory_plan[:2] == [("weights", 16 * GIB), ("workspace", 2 * GIB)]
    assert ready.num_blocks == 4 * (128 // 16 + 1)


def test_a_device_runner_is_rehearsed_and_its_graphs_are_in_the_plan_as_seen():
    memory = FakeMemory(16 * GIB)
    runner = ModelRunner(DEMO_MODEL, "cpu", "float32", threads=1, runner="device")
    runner.device_memory = memory
    blocks: list[int] = []
    forward = runner.model.forward

    def running(input_ids, metadata, kv_cache):
        blocks.append(kv_cache.keys.shape[1])
        if len(blocks) == 1:
            memory.workspace = 2 * GIB
        return forward(input_ids, metadata, kv_cache)

    runner.model.forward = running
    ready = runner.configure(Configure(4, 64, 128, 16, None, 0.9))
    plan = dict(ready.memory_plan)
    assert blocks[0] == 1 and blocks[-1] == ready.num_blocks == 4 * (128 // 16 + 1)
    assert 0 < plan["batch"] < MIB << 7 and plan["workspace"] + plan["batch"] == 2 * GIB
    assert memory.workspace == 0, "what the rehearsal took has been given back"


def test_a_device_that_others_have_filled_is_refused_with_who_is_in_the_way():
    with pytest.raises(DeviceError, match=r"there are 0 bytes, and other processes hold 63\.50 GiB of the GPU: end"):
        runner_on(FakeMemory(16 * GIB, lambda n: 63 * GIB + GIB // 2)).configure(Configure(4, 64, 128, 16, None, 0.9))


def test_a_trial_step_that_does_not_fit_names_its_flags():
    runner = runner_on(FakeMemory(16 * GIB))

    def failing(hidden: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    runner.model.compute_logits = failing
    with pytest.raises(DeviceError, match="trial step of the largest shapes; lower --max-num-batched-tokens or --max-"):
        runner.configure(Configure(4, 64, 128, 16, None, 0.9))
