"""The native library, once for each instruction set of this machine; its tests are skipped where it cannot be had."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from quire.kernels.cpu.native import build, library


@pytest.fixture(params=list(build.LEVELS))
def level(request: pytest.FixtureRequest) -> Iterator[str]:
    """The instruction set whose library is loaded while the test runs."""
    try:
        yield library.load(request.param)
    except build.BuildError as error:
        pytest.skip(str(error))
    library.load()
