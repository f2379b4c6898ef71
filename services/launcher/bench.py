"""`quire bench`: serve measures a server from outside, offline the model without one, startup the time to ready.

The scripts lie in bench/ at the top of a checkout, and beside services/ in an installed package.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import quire

_BENCHES = {"serve": "serving.py", "offline": "offline.py", "startup": "startup.py"}


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
