"""What a frontend does about a launcher that was stopped (SIGSTOP) and stays so: it ends it, and the server with it.

A server whose launcher stands still cannot be told to end, and nothing of it that dies comes back. Killed, it takes
all its processes along, and whoever started it learns of it. Looked at by server.py; one that is traced is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from pathlib import Path

logger = logging.getLogger("quire.frontend")

_GAP_SECONDS = 2.0
"""Between two looks: after more, this process has been stopped itself, and the launcher perhaps with it."""


class FrozenLauncher:
    """`look` is to be called a few times a second. No pid, or a limit of 0: nothing is ever done."""

    def __init__(self, pid: int | None, limit_seconds: float) -> None:
        self._pid = pid if limit_seconds else None
        self._limit = limit_seconds
        self._stopped_since = 0.0
        self._looked_at = 0.0

    def look(self, now: float) -> None:
        """`now`: monotonic seconds."""
        if self._pid is None:
            return
        if not _is_stopped(self._pid) or now - self._looked_at > _GAP_SECONDS:
            self._stopped_since = 0.0
        elif not self._stopped_since:
            self._stopped_since = now
        elif now - self._stopped_since >= self._limit:
            logger.error(
                "the launcher was stopped and did not go on for %g s (--stall-limit): it is killed", self._limit
            )
            with contextlib.suppress(OSError):
                os.kill(self._pid, signal.SIGKILL)
            self._pid = None  # as the first process of a container it cannot be
        self._looked_at = now


def _is_stopped(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
    except (OSError, IndexError):
        return False
