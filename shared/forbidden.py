"""What no process of a server ever does: an audit hook that ends the process before it happens.

Installed first thing by every service and by the launcher of a server, before torch or anything else is loaded; never
in a program that only uses quire.LLM. The source is held to the same list by tests/architecture.
"""

from __future__ import annotations

import faulthandler
import os
import sys

FORBIDDEN = frozenset(("pickle.find_class", "marshal.load", "os.system", "os.fork", "os.forkpty", "urllib.Request"))
"""Objects from bytes, a shell, a fork (children are started by exec), and going out to fetch something."""
EXIT_CODE = 70
_is_installed = False


def forbid() -> None:
    """From here on this process ends, with its stacks and one line, at the first of these. Cannot be undone."""
    global _is_installed
    if not _is_installed:
        _is_installed = True
        sys.addaudithook(_on_event)


def _on_event(event: str, _: object) -> None:
    if event in FORBIDDEN:
        faulthandler.dump_traceback(all_threads=False)
        os.write(2, f"quire: ended itself: {event} must never happen in this process\n".encode())
        os._exit(EXIT_CODE)
