"""The watchdog: finds children that are there but do nothing, has them print their stacks, then kills them.

A service reports once a second. One that is silent is frozen once it uses no CPU either (a long step is
silent but busy), or when it has been silent for very long. Kills count as crashes.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable
from pathlib import Path

import msgspec

from .child import Child

_BUSY_FACTOR = 10.0
"""How many times the limit a child may be silent while it uses CPU."""
_DUMP_SECONDS = 0.5
"""From asking for stacks to the kill."""
_STIR_SECONDS = 0.02
"""Of CPU time since it was last seen to use any: using less than this is using none."""


class _Watched(msgspec.Struct):
    heard_at: float
    sequence: tuple[int, int]
    busy_at: float
    """When it was last seen to use CPU, and how much that was in all."""
    cpu_seconds: float
    asked_at: float = 0.0
    """When it was asked for its stacks; 0: it was not."""


class Watchdog:
    """`look` is to be called a few times a second. limit_seconds 0 turns it off."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit = limit_seconds
        self._watched: dict[int, _Watched] = {}

    def look(self, children: Iterable[Child], now: float) -> None:
        """Ends those of the ready children that have stalled."""
        if not self._limit:
            return
        seen: dict[int, _Watched] = {}
        for child in children:
            if child.report is None or not child.was_ready or child.is_stopping:
                continue
            sequence = (child.report.incarnation, child.report.sequence)
            watched = self._watched.get(child.pid)
            if watched is None or watched.sequence != sequence:
                watched = _Watched(now, sequence, now, _cpu_seconds(child.pid))
            seen[child.pid] = watched
            self._judge(child, watched, now)
        self._watched = seen

    def _judge(self, child: Child, watched: _Watched, now: float) -> None:
        silent = now - watched.heard_at
        if watched.asked_at:
            if now - watched.asked_at >= _DUMP_SECONDS:
                child.kill_as_lost()
            return
        if silent > self._limit / 4:
            used = _cpu_seconds(child.pid)
            if used - watched.cpu_seconds >= _STIR_SECONDS:
                watched.busy_at, watched.cpu_seconds = now, used
        if now - watched.busy_at >= self._limit or silent >= self._limit * _BUSY_FACTOR:
            watched.asked_at = now
            child.condemn(f"no sign of life for {silent:.0f} s")
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child.pidfd, signal.SIGUSR1)


def _cpu_seconds(pid: int) -> float:
    """CPU time of a process and all its threads; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100
