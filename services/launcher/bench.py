"""`quire bench`: serve measures a server from outside, offline the model without one, startup the time to ready.

The scripts lie in bench/ at the top of a checkout, and beside services/ in an installed package.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import quire

_BENCHES = {
    "serve": ("serving.py", "a running server from outside: throughput, time to first token, between tokens"),
    "offline": ("offline.py", "scheduler and model without a server; with --llm, LLM.generate beside the engine alone"),
    "startup": ("startup.py", "from the command to the first token"),
}


def bench(argv: list[str]) -> int:
    if not argv or argv[0] not in _BENCHES:
        is_asked = argv[:1] in (["-h"], ["--help"])
        print(_usage(), file=sys.stdout if is_asked else sys.stderr)
        return 0 if is_asked else 2
    package = Path(quire.__file__).resolve().parent
    for folder in (package / "bench", package.parent / "bench"):
        script = folder / _BENCHES[argv[0]][0]
        if script.is_file():
            os.execv(sys.executable, [sys.executable, str(script), *argv[1:]])
    print("quire: this installation has no bench", file=sys.stderr)
    return 1


def _usage() -> str:
    lines = [f"  {name:<9}{what}" for name, (_, what) in _BENCHES.items()]
    return "\n".join(["usage: quire bench WHAT [flags]", "", *lines, "", "  quire bench WHAT --help   its flags"])
