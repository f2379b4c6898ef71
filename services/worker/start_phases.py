"""What a worker's start is spent on: phases one after the other, with their times, for the log and the ready report."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path


class StartPhases:
    """`begin` ends the phase before; as text, one line. The first phase is what was before: the interpreter's start."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, seconds_before: float = 0.0) -> None:
        self._clock = clock
        self._began = clock()
        self._current: str | None = None
        self._ended: list[tuple[str, float]] = [("python", seconds_before)] if seconds_before else []

    def begin(self, what: str) -> None:
        self.end()
        self._current = what

    def end(self) -> None:
        """What comes until the next `begin` is no phase: waiting for others."""
        now = self._clock()
        if self._current is not None:
            self._ended.append((self._current, now - self._began))
        self._current, self._began = None, now

    def __str__(self) -> str:
        return ", ".join(f"{what} {seconds:.2f} s" for what, seconds in self._ended)


def process_seconds() -> float:
    """Since this process was started, in hundredths; 0 where the kernel does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError):
        return 0.0
