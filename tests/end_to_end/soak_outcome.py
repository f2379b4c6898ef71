"""What a soak showed: answers, open files, and how each process's memory went while nobody died.

Filled by soak.py.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from msgspec import Struct

from tests.end_to_end.history import Verdict
from tests.end_to_end.memory_slopes import MIB, Slope, later_half, slope
from tests.end_to_end.running_server import RunningServer

MOST_GROWTH = 1.0
"""MiB an hour of a process, after its warm-up."""
_SURE_SECONDS = 240.0
"""Shorter than this, what a process was looked at says nothing of an hour."""


class Sample(Struct):
    """What the processes held at one time; by pid, since a successor begins anew."""

    at: float
    resident_bytes: dict[int, int]
    num_files: dict[str, int]
    pids: dict[str, int]
    """A tokenizer's helper process too, as `tokenizer-0's helper`."""


class Outcome(Struct):
    """What a soak showed."""

    verdict: Verdict
    seconds: float
    faults: dict[str, int]
    num_left: int
    """Requests whose clients went away."""
    num_constrained: int
    samples: list[Sample]
    """Of the part without faults."""
    files_before: dict[str, int]
    files_after: dict[str, int]

    def grown_files(self, slack: int = 8) -> dict[str, tuple[int, int]]:
        """Services that hold more descriptors at the end than at the beginning: before, after."""
        before, after = self.files_before, self.files_after
        return {name: (before[name], after[name]) for name in before if after.get(name, 0) > before[name] + slack}

    def slopes(self) -> dict[str, Slope]:
        """Of resident memory, by service, over the later half of the life of those that are there at the end."""
        found = {name: slope(points) for name, points in self._judged().items()}
        return {name: one for name, one in found.items() if one is not None}

    def _judged(self) -> dict[str, list[tuple[float, float]]]:
        """Seconds and bytes, by service."""
        found = {}
        for name, pid in sorted(self.samples[-1].pids.items()) if self.samples else ():
            points = [(one.at, one.resident_bytes[pid]) for one in self.samples if pid in one.resident_bytes]
            found[name] = later_half(points)
        return found

    def growing(self) -> list[str]:
        """Services of which it is sure that they grow by more than MOST_GROWTH: over the whole time, and over either

        half of it. One step is no growth: what a process has once held at once, its allocator may keep.
        """
        slopes = self.slopes()
        found = []
        for name, points in self._judged().items():
            one = slopes.get(name)
            if one is None or one.low <= MOST_GROWTH or one.seconds <= _SURE_SECONDS:
                continue
            middle = len(points) // 2
            halves = [slope(points[:middle]), slope(points[middle:])]
            if all(half is not None and half.mib_per_hour > MOST_GROWTH for half in halves):
                found.append(name)
        return found


def sample(server: RunningServer) -> Sample:
    """What they hold now."""
    pids = server.pids()
    resident: dict[int, int] = {}
    files: dict[str, int] = {}
    pids |= {f"{name}'s helper": child for name, pid in pids.items() for child in _children(pid, name)}
    for name, pid in pids.items():
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            resident[pid] = pages * os.sysconf("SC_PAGE_SIZE")
            files[name] = len(os.listdir(f"/proc/{pid}/fd"))
    return Sample(time.monotonic(), resident, files, pids)


def _children(pid: int, name: str) -> list[int]:
    """Of a tokenizer: the helper process of clients' programs, if it runs."""
    if not name.startswith("tokenizer-"):
        return []
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        return [int(child) for task in tasks for child in task.read_text().split()][:1]
    return []


def told(outcome: Outcome) -> str:
    verdict = outcome.verdict
    faults = ", ".join(f"{count} x {fault}" for fault, count in outcome.faults.items()) or "no faults"
    lines = [
        f"{outcome.seconds:.0f} s, {faults}: {verdict.num_same} requests the same, {verdict.num_broken} broken,"
        f" {verdict.num_different} wrong, {outcome.num_left} left by their clients, {outcome.num_constrained} with"
        " constraints; every block is free",
        f"open files grown: {outcome.grown_files() or 'none'}",
    ]
    slopes = outcome.slopes()
    if slopes:
        seconds = max(one.seconds for one in slopes.values())
        lines.append(f"resident memory in the last {seconds:.0f} s: MiB, and MiB/h (95 % between)")
        last = outcome.samples[-1]
        sizes = {name: last.resident_bytes.get(last.pids[name], 0) / MIB for name in slopes}
        lines += [f"  {name:<22}{sizes[name]:>7.1f}   {one}" for name, one in slopes.items()]
    return "\n".join(lines)
