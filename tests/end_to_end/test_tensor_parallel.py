"""Two ranks on the CPU behind a real server: the answers of one, also when a rank is killed or frozen in mid-step."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from quire.shared.run_directory import RunDirectory

from .faulty_load import bodies, load
from .history import content
from .kill_matrix import SERVER, Row, strike, verdict
from .running_server import RunningServer, serving

TWO_RANKS = (*SERVER, "--tensor-parallel-size", "2", "--device", "cpu")
RANKS = ("worker-0-0", "worker-0-1")
FAULTS = (
    Row("a rank", ("worker-0-1",), unready_within=1.0),
    Row("a frozen rank", ("worker-0-1",), is_freeze=True, unready_within=60.0),
    Row("engine", ("engine-0",), unready_within=1.0),
)


def test_two_ranks_answer_as_one_and_a_lost_rank_changes_nothing(demo: RunningServer) -> None:
    """The reference is a server with one rank, in float32 as well: the demo model is tiny."""
    reference = [content(answer) for answer in asyncio.run(load(demo, bodies()))]
    with serving(*TWO_RANKS) as server:
        for row in FAULTS:
            old = server.pids()
            outcome = strike(server, row, reference)
            assert not verdict(row, outcome), (row.name, outcome.remarks[:5])
            assert outcome.unready_after is not None, row.name
            now = server.pids()
            if row.name != "engine":  # it finds its ranks as they were, unless it died between two of them
                assert all(now[name] != old[name] for name in RANKS), f"{row.name}: a rank stayed behind"
        assert server.stop() == 0
        assert not list((server.run_dir / "run").glob("worker*"))


def test_ranks_that_cannot_divide_the_model_are_one_line() -> None:
    with (
        pytest.raises(AssertionError, match="does not divide the model's num_attention_heads 6"),
        serving("--tensor-parallel-size", "4", "--device", "cpu"),
    ):
        pass


def test_without_a_supervisor_a_rank_ends_when_the_other_is_gone() -> None:
    """The supervisor is stopped, so that it can kill nobody: the rank that is left has only its own watch."""
    with serving(*TWO_RANKS) as server:
        pids = server.pids()
        server.process.send_signal(signal.SIGSTOP)
        try:
            os.kill(pids["worker-0-1"], signal.SIGKILL)
            end = time.monotonic() + 60
            while "worker-0-0" in _alive(server):
                assert time.monotonic() < end, "rank 0 is still there"
                time.sleep(0.02)
        finally:
            server.process.send_signal(signal.SIGCONT)


def _alive(server: RunningServer) -> set[str]:
    directory = RunDirectory(server.run_dir / "run")
    try:
        return set(directory.entries("worker"))
    finally:
        directory.close()
