"""Every row of the kill matrix once, under load: what was under way completes as if nothing had happened."""

from __future__ import annotations

import pytest

from .faulty_load import NUM_PLAIN, NUM_STREAMS
from .history import Content
from .kill_matrix import ROWS, Outcome, Row, lateness, run_row, table, verdict

_references: list[list[Content]] = []
"""The first row's: the same load gives the same answers on every server."""


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_fault_under_load_changes_no_answer(row: Row, capsys: pytest.CaptureFixture[str]) -> None:
    outcome, reference = run_row(row, _references[0] if _references else None)
    if not _references:
        _references.append(reference)
    with capsys.disabled():
        print("\n" + table([outcome]))
    assert not verdict(row, outcome), outcome.remarks[:5]
    assert len(reference) == NUM_STREAMS + NUM_PLAIN
    assert any(len(one.texts) == 2 for one in reference) and any(any(one.tokens.values()) for one in reference)


def test_the_script_judges_by_the_promised_times():
    row = Row("engine", ("engine-0",), unready_within=0.25, ready_within=5.0)
    assert lateness(row, Outcome("engine", unready_after=0.9, ready_after=4.9)) == []
    assert len(lateness(row, Outcome("engine", unready_after=1.1, ready_after=5.1))) == 2
    assert "(0.25)" in table([Outcome("engine", ready_after=1.0)]) and "(5)" in table(
        [Outcome("engine", ready_after=1.0)]
    )
