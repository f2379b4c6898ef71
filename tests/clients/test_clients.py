"""The clients people use, unchanged, against the served demo model: each generation in an environment of its own.

`scripts/client_environments` makes the environments; `.ci/run` calls it. What each client does is in
openai2/ and openai3/, run there by that environment's own pytest.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from running_server import RunningServer, serving

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.fixture(scope="module")
def server():
    with serving("--frontends=1", "--kv-cache-memory=64MiB") as running:
        yield running


@pytest.mark.parametrize("generation", [2, 3])
def test_clients_work_unchanged(server: RunningServer, generation: int) -> None:
    python = ROOT / f".venv-clients{generation}" / "bin" / "python"
    if not (python.parent.parent / "quire-stamp").exists():
        pytest.skip("scripts/client_environments has not made this environment")
    options = ["-q", "-p", "no:cacheprovider", "-c", os.devnull, "-o", "python_files=client_*.py"]
    folder = HERE / f"openai{generation}"
    done = subprocess.run(
        [str(python), "-m", "pytest", *options, f"--rootdir={folder}", str(folder)],
        env={**os.environ, "QUIRE_URL": server.url, "OPENAI_API_KEY": "none", "ANTHROPIC_API_KEY": "none"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
