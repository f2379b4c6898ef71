"""One server of the demo model for all tests that leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from running_server import RunningServer, serving


@pytest.fixture(scope="session")
def demo() -> Iterator[RunningServer]:
    """The demo model with two tokenizers and two frontends."""
    flags = {"tokenizers": 2, "frontends": 2, "max-num-seqs": 64, "max-in-flight": 600, "kv-cache-memory": "64MiB"}
    with serving(*(f"--{name}={value}" for name, value in flags.items())) as server:
        yield server
