"""Other programs of this checkout, run by a section: to their end, or with what they said when they failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .setting import ROOT

_LAST_LINES = 15


def python(arguments: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None) -> str:
    """What `python ARGUMENTS` printed. Raises RuntimeError with its last lines when it fails or takes longer."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        try:
            output, _ = process.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        raise RuntimeError(f"{arguments[0]} took more than {seconds:.0f} s:\n{_last(output)}") from None
    if process.returncode:
        raise RuntimeError(f"{arguments[0]} ended with code {process.returncode}:\n{_last(output)}")
    return output


def recorded(arguments: Sequence[str], out: Path, seconds: float, environment: Mapping[str, str] | None = None) -> Any:
    """The results of a benchmark that writes JSON with --out. Raises RuntimeError."""
    python([*arguments, "--out", str(out)], seconds, environment)
    return json.loads(out.read_text())["results"]


def _last(output: str) -> str:
    return "\n".join(output.splitlines()[-_LAST_LINES:])
