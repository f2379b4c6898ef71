"""How fast a process grows, out of samples of its resident memory: a robust slope and how sure it is.

Memory grows in steps and has spikes, and samples that follow each other are not independent. So samples are cut into
windows, a window counts by its median, and the slope is the median of those between all windows (Theil and Sen), with
the interval that Kendall's test gives it. Used by soak.py.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import NamedTuple

_MAX_WINDOWS = 40
_MIN_WINDOWS = 4
_SURE = 1.96
"""Standard deviations to both sides: 95 %."""
MIB = 1 << 20


class Slope(NamedTuple):
    """MiB an hour, and between which two it lies with 95 %; how long the process was looked at, in seconds."""

    mib_per_hour: float
    low: float
    high: float
    seconds: float

    def __str__(self) -> str:
        return f"{self.mib_per_hour:+.2f} ({self.low:+.2f} to {self.high:+.2f})"


def slope(points: Sequence[tuple[float, float]]) -> Slope | None:
    """Of (seconds, bytes) in order; None where there are too few."""
    windows = _windows(points)
    if len(windows) < _MIN_WINDOWS:
        return None
    found = sorted(
        (later[1] - earlier[1]) / (later[0] - earlier[0]) * 3600 / MIB
        for index, earlier in enumerate(windows)
        for later in windows[index + 1 :]
    )
    count = len(windows)
    margin = _SURE * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    low = found[max(0, math.floor((len(found) - margin) / 2))]
    high = found[min(len(found) - 1, math.ceil((len(found) + margin) / 2))]
    return Slope(statistics.median(found), low, high, points[-1][0] - points[0][0])


def _windows(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The middle and the median of each; windows of one length, of three samples or more."""
    count = min(_MAX_WINDOWS, len(points) // 3)
    if not count:
        return []
    cuts = [round(index * len(points) / count) for index in range(count + 1)]
    parts = [points[begin:end] for begin, end in zip(cuts, cuts[1:], strict=False)]
    return [(statistics.mean(x for x, _ in part), statistics.median(y for _, y in part)) for part in parts]


def later_half(lives: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Samples of one process without those of the first half of its time: its warm-up."""
    points = list(lives)
    if not points:
        return []
    middle = (points[0][0] + points[-1][0]) / 2
    return [point for point in points if point[0] >= middle]
