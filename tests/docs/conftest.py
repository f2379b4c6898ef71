"""One server of the demo model for all examples."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from running_server import RunningServer, serving


@pytest.fixture(scope="session")
def demo() -> Iterator[RunningServer]:
    with serving("--kv-cache-memory", "64MiB") as server:
        yield server
