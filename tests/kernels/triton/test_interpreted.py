"""Runs the tests of this folder once more, in a process in which Triton's kernels are interpreted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def test_the_kernels_equal_their_specification_in_the_interpreter() -> None:
    pytest.importorskip("triton")
    if "QUIRE_KERNEL_TESTS" in os.environ:
        pytest.skip("one way to run these tests was asked for")
    environment = {**os.environ, "QUIRE_KERNEL_TESTS": "interp", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "pytest", "-q", "--tb=short", "--durations=5", str(HERE)]
    done = subprocess.run(command, env=environment, cwd=HERE.parents[2], capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
