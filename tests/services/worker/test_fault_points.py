"""Fault points: what a test asks for happens at the step or row that it named, and nowhere else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from array import array
from pathlib import Path

import pytest

from quire.services.worker.errors import DeviceError
from quire.services.worker.fault_points import FaultError, FaultPoints, NanRow, parse
from quire.services.worker.out_of_memory import is_out_of_memory, telling
from quire.shared.messages import NewRow, Plan, SamplingParams, Slot

ROOT = Path(__file__).parents[3]
MARKER = 17


def ints(*values: int) -> bytes:
    return array("i", values).tobytes()


def new_row(slot: int, ids: list[int], blocks: list[int], num_computed: int = 0) -> NewRow:
    return NewRow(Slot(slot), ints(*ids), len(ids), num_computed, ints(*blocks), SamplingParams(), 0)


def plan(
    step: int, rows: dict[int, tuple[int, int]], new: tuple[NewRow, ...] = (), added: dict[int, int] | None = None
):
    """rows: slot -> (scheduled, computed); added: slot -> block."""
    added = added or {}
    scheduled, computed = zip(*rows.values(), strict=True)
    return Plan(
        step, [], list(new), ints(*added), ints(*added.values()), b"", ints(*rows), ints(*scheduled), ints(*computed)
    )


def test_a_step_is_struck_once():
    points = FaultPoints(parse("exception@step:3"), 4)
    points.before(plan(2, {0: (3, 0)}, (new_row(0, [5, 6, 7], [1]),)))
    with pytest.raises(FaultError, match="step 3"):
        points.before(plan(3, {0: (1, 3)}))
    points.before(plan(4, {0: (1, 4)}, added={0: 9}))


def test_a_token_strikes_every_step_of_the_rows_whose_prompt_holds_it():
    points = FaultPoints(parse(f"exception@token:{MARKER}"), 4)
    points.before(plan(1, {0: (2, 0)}, (new_row(0, [5, 6], [1]),)))
    with pytest.raises(FaultError):
        points.before(plan(2, {0: (1, 2), 1: (2, 0)}, (new_row(1, [5, MARKER], [2]),)))
    points.before(plan(3, {0: (1, 3)}))


def test_a_row_gives_no_number_once_some_of_it_is_computed():
    points = FaultPoints(parse(f"nan@token:{MARKER}"), 4)
    rows = (new_row(0, [5, 6], [1]), new_row(1, [5, MARKER, 6, 7, 8], [2, 3]))
    assert points.before(plan(1, {0: (2, 0), 1: (4, 0)}, rows)) == []
    assert points.before(plan(2, {0: (1, 2), 1: (1, 4)})) == [NanRow(slot=1, index=1, block=2)]
    assert points.before(plan(3, {1: (1, 5)})) == [NanRow(slot=1, index=0, block=3)]


def test_a_released_slot_is_marked_no_more():
    points = FaultPoints(parse(f"nan@token:{MARKER}"), 4)
    points.before(plan(1, {1: (2, 0)}, (new_row(1, [5, MARKER], [2]),)))
    other = new_row(1, [5, 6, 7], [3], num_computed=2)
    assert points.before(plan(2, {1: (1, 2)}, (other,))) == []


def test_memory_that_is_not_there_is_told_with_what_to_change():
    points = FaultPoints(parse("oom@step:1"), 4)
    sentence = "in a step of 1 rows; lower --memory-utilization"
    with pytest.raises(DeviceError, match=sentence), telling("in a step of 1 rows"):
        points.before(plan(1, {0: (2, 0)}, (new_row(0, [5, 6], [1]),)))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))
    with pytest.raises(RuntimeError, match="shape mismatch"), telling("somewhere"):
        raise RuntimeError("shape mismatch")


@pytest.mark.parametrize(
    ("spec", "code"), [("kill@step:1", -signal.SIGKILL), ("exit=3@step:1", 3), ("freeze@step:1", 0)]
)
def test_a_process_ends_or_stops(spec: str, code: int):
    script = (
        "from quire.services.worker.fault_points import FaultPoints, parse; from quire.shared.messages import Plan;"
        f" FaultPoints(parse({spec!r}), 4).before(Plan(1, [], [], b'', b'', b'', b'', b'', b''))"
    )
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT)
    try:
        if not code:
            _, status = os.waitpid(process.pid, os.WUNTRACED)
            assert os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP
            process.kill()
        assert process.wait(60) == code or not code
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("spec", ["boom@step:1", "exception", "nan@row:3", "delay=x@step:1", ""])
def test_what_is_no_fault_point_is_said(spec: str):
    with pytest.raises(ValueError, match="--fault-points .* actions: delay, exception"):
        parse(spec)
