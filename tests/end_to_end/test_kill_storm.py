"""Tokenizers killed one after the other under a steady load: no request fails, and each pause is made up for."""

from __future__ import annotations

import pytest

from .kill_storm import reference_of, storm, told
from .running_server import serving


def test_tokenizers_killed_again_and_again_cost_no_request(capsys: pytest.CaptureFixture[str]) -> None:
    with serving("--tokenizers", "3", "--dtype", "float32") as server:
        outcome = storm(server, num_kills=4, seconds=8.0, reference=reference_of(server))
    with capsys.disabled():
        print("\n" + told(outcome))
    verdict = outcome.verdict
    assert not verdict.num_broken and not verdict.num_different, verdict.remarks[:5]
    assert verdict.num_same and outcome.kills and outcome.pauses
