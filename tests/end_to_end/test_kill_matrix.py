"""Every row of the kill matrix once, under load: what was under way completes as if nothing had happened."""

from __future__ import annotations

import pytest

from . import kill_matrix
from .kill_matrix import ROWS, Row, run_row, table, verdict

_references: list = []
"""The first row's: the same load gives the same answers on every server."""


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_fault_under_load_changes_no_answer(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    outcome, reference = run_row(row, _references[0] if _references else None)
    if not _references:
        _references.append(reference)
    with capsys.disabled():
        print("\n" + table([outcome]))
    assert not verdict(row, outcome), outcome.remarks[:5]
    assert len(reference) == kill_matrix.NUM_STREAMS + kill_matrix.NUM_PLAIN
    assert any(len(one["texts"]) == 2 for one in reference) and any(any(one["tokens"].values()) for one in reference)


def test_a_killed_supervisor_takes_everything_with_it() -> None:
    """See test_operation.py for the tree; here: nothing answers any more."""
    with kill_matrix.serving(*kill_matrix.SERVER) as server:
        server.process.kill()
        server.process.wait(10)
        probe = kill_matrix.Probe(server.url)
        with pytest.raises(OSError):
            for _ in range(100):
                server.get("/health/live")
                kill_matrix.time.sleep(0.1)
        assert not probe.changes
