"""Which steps are captured and what others are padded to, and that a captured step reads nothing but what stays."""

from __future__ import annotations

import inspect
import random
from typing import Any

import pytest
import torch
from checkpoints import make_checkpoint
from plans import Driver
from test_device_runner import masked_step
from torch.utils._python_dispatch import TorchDispatchMode

from quire import kernels
from quire.services.worker.cuda_graphs import CudaGraphs, decode_sizes, mixed_sizes, sizes_for
from quire.services.worker.model_runner import ModelRunner


def test_thirty_one_sizes_of_decode_steps():
    sizes = decode_sizes(512)
    assert len(sizes) == 31
    assert sizes[:6] == [1, 2, 4, 8, 16, 24]
    assert {64, 80, 256, 288, 512} <= set(sizes) and sizes == sorted(sizes)


@pytest.mark.parametrize("most", [1, 3, 8, 57, 64, 100, 512, 4096])
def test_the_largest_size_is_what_a_step_can_have(most):
    sizes = decode_sizes(most)
    assert sizes[-1] == min(most, 512) and len(set(sizes)) == len(sizes)
    assert mixed_sizes(most)[-1] == min(most, 512)


def test_a_step_is_padded_to_the_smallest_shape_it_fits():
    sizes = sizes_for(max_rows=100, max_tokens=8192, num_columns=7)
    for num_rows in range(1, 101):
        shape = sizes.shape_for(num_rows, num_rows)
        assert shape is not None
        assert (
            shape.num_tokens
            == shape.num_rows
            == shape.num_decode_rows
            == min(size for size in sizes.decode if size >= num_rows)
        )
        assert shape.num_columns == 7
    for num_tokens in range(2, 513):
        shape = sizes.shape_for(num_tokens, 1)
        assert shape is not None and shape.num_decode_rows == 0
        assert num_tokens <= shape.num_tokens <= (num_tokens * 1.25 if num_tokens > 128 else num_tokens + 31)
        assert shape.num_rows == min(100, shape.num_tokens)
    assert sizes.shape_for(513, 100) is None
    assert sizes_for(600, 8192, 7).shape_for(600, 600) is None


def test_the_largest_is_captured_first():
    tokens = [shape.num_tokens for shape in sizes_for(64, 512, 7).shapes()]
    assert tokens[0] == 512 and tokens == sorted(tokens, reverse=True)


class Recording(TorchDispatchMode):
    """Notes every operation with the tensors it was given; one of `kernels` is noted whole, as what it launches is."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self._depth = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self.note(func, args, kwargs or {})

    def note(self, function, args, kwargs):
        self._depth += 1
        try:
            result = function(*args, **kwargs)
        finally:
            self._depth -= 1
        if not self._depth:
            self.calls.append((function, args, kwargs, result))
        return result

    def replay(self) -> None:
        """Each call again, with what it was given then; its result goes where the first one's was."""
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            if isinstance(result, torch.Tensor) and again.data_ptr() != result.data_ptr():
                result.copy_(again)


class RecordedGraphs:
    """As a GPU's graphs: nothing of Python runs in a replay, only the recorded calls on the same tensors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._recording: Recording | None = None
        self.num_replays = 0
        for name in kernels.__all__:
            function = getattr(kernels, name)
            if inspect.isfunction(function) and inspect.signature(function).return_annotation in (
                "torch.Tensor",
                "None",
            ):
                monkeypatch.setattr(kernels, name, self._noted(function))

    def _noted(self, function):
        def call(*args, **kwargs):
            return (
                function(*args, **kwargs) if self._recording is None else self._recording.note(function, args, kwargs)
            )

        return call

    def capture(self, work):
        recording = self._recording = Recording()
        with recording:
            work()
        self._recording = None

        def replay() -> None:
            self.num_replays += 1
            recording.replay()

        return replay

    def used_bytes(self) -> int:
        return 0


def prompt(length: int, seed: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(384) for _ in range(length)]


def test_recorded_steps_give_what_steps_give(tmp_path, monkeypatch):
    """Every step but those too large runs as recorded with dummies: whatever was read beside its tensors would show."""
    folder = make_checkpoint("qwen3", tmp_path)
    outputs = []
    graphs = RecordedGraphs(monkeypatch)
    monkeypatch.setattr("quire.services.worker.device_setup.RerunGraphs", lambda: graphs)
    for is_recorded in (False, True):
        runner = ModelRunner(folder, "cpu", "float32", threads=1, runner="device", enforce_eager=not is_recorded)
        driver = Driver(runner, max_num_seqs=5, budget=40)
        rows = [
            driver.row(slot, prompt(3 + 4 * slot, slot), seed=slot, temperature=0.8 * (slot % 2), frequency_penalty=0.5)
            for slot in range(5)
        ]
        for count in (3, 5):
            driver.run(rows[:count], 6 + count)
        driver.preempt(rows[0])
        driver.run(rows, 15)
        generator = random.Random(7)
        for _ in range(6):
            masked_step(driver, [(row, row.num_missing) for row in rows], generator)
        outputs.append([row.output for row in rows])
    assert outputs[0] == outputs[1]
    assert graphs.num_replays > 20


class FailedGraph:
    """As torch's: ending a capture that something has broken says no more than that."""

    def capture_begin(self, pool: object, capture_error_mode: str) -> None:
        assert capture_error_mode == "thread_local"

    def capture_end(self) -> None:
        raise RuntimeError("CUDA error: operation failed due to a previous error during capture")


def test_what_fails_in_a_capture_is_what_is_told(monkeypatch):
    class Stream:
        def synchronize(self) -> None:
            pass

    monkeypatch.setattr(torch.cuda, "CUDAGraph", FailedGraph)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    outcomes = iter([None, ValueError("a copy from memory that is not pinned")])

    def work() -> None:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome

    with pytest.raises(ValueError, match="not pinned"):
        CudaGraphs(torch.device("cuda", 0)).capture(work)
