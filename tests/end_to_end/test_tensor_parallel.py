"""Two ranks on the CPU behind a real server: the answers of one, also when a rank is killed or frozen in mid-step."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from quire.shared.run_directory import RunDirectory

from . import kill_matrix
from .kill_matrix import Row, load, strike, verdict, whole
from .running_server import serving

TWO_RANKS = ("--tensor-parallel-size", "2", "--device", "cpu")
RANKS = ("worker-0-0", "worker-0-1")


def test_two_ranks_answer_as_one_and_a_lost_rank_changes_nothing() -> None:
    with serving(*kill_matrix.SERVER) as server:
        reference = [whole(answer) for answer in asyncio.run(load(server))]
    with serving(*kill_matrix.SERVER, *TWO_RANKS) as server:
        assert [whole(answer) for answer in asyncio.run(load(server))] == reference
        for row in (
            Row("a rank", ("worker-0-1",), unready_within=1.0),
            Row("a frozen rank", ("worker-0-1",), is_freeze=True),
            Row("rank 0", ("worker-0-0",), unready_within=1.0),
        ):
            old = server.pids()
            outcome = strike(server, row, reference)
            assert not verdict(row, outcome), outcome.remarks[:5]
            now = server.pids()
            assert all(now[name] != old[name] for name in RANKS), "a rank stayed behind"
            if not row.is_freeze:
                assert outcome.unready_after is not None
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
    with serving(*kill_matrix.SERVER, *TWO_RANKS) as server:
        pids = server.pids()
        server.process.send_signal(signal.SIGSTOP)
        try:
            os.kill(pids["worker-0-1"], signal.SIGKILL)
            end = time.monotonic() + 20
            while "worker-0-0" in _alive(server):
                assert time.monotonic() < end, "rank 0 is still there"
                time.sleep(0.02)
        finally:
            server.process.send_signal(signal.SIGCONT)


def _alive(server) -> set[str]:
    directory = RunDirectory(server.run_dir / "run")
    try:
        return set(directory.entries("worker"))
    finally:
        directory.close()
