"""schemathesis over the served demo model, briefly: scripts/fuzz does the same for long."""

from __future__ import annotations

import pytest
from fuzz.http_api import probe
from running_server import serving

CASES = 60


@pytest.mark.filterwarnings("ignore")  # of schemathesis and what it uses
def test_no_request_of_any_shape_makes_the_server_fail_or_answer_off_its_document() -> None:
    with serving("--max-in-flight=600") as server:
        before = server.pids()
        statuses = probe(server.url, CASES)
        assert server.pids() == before
    seen = {status for counter in statuses.values() for status in counter}
    assert {200, 400} <= seen and not any(status >= 500 for status in seen)
