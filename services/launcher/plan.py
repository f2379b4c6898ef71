"""`quire plan`: hands over to the worker's own arithmetic, which this process may not import."""

from __future__ import annotations

import os
import sys


def plan(argv: list[str]) -> int:
    os.execv(sys.executable, [sys.executable, "-m", "quire.services.worker.plan", *argv])
