"""`quire bench serve`: runs the load generator of bench/serving.py against a server.

In a checkout it lies in bench/ at the top; in an installed package beside services/.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import quire

_BENCHES = {"serve": "serving.py"}


def bench(argv: list[str]) -> int:
    if not argv or argv[0] not in _BENCHES:
        print(f"usage: quire bench {{{','.join(_BENCHES)}}} [flags]", file=sys.stderr)
        return 0 if argv[:1] in (["-h"], ["--help"]) else 2
    package = Path(quire.__file__).resolve().parent
    for folder in (package / "bench", package.parent / "bench"):
        script = folder / _BENCHES[argv[0]]
        if script.is_file():
            os.execv(sys.executable, [sys.executable, str(script), *argv[1:]])
    print("quire: this installation has no bench", file=sys.stderr)
    return 1
