"""What services say of themselves: the samples of their reports, and percentiles of the histograms in them.

For benchmarks that run services without a frontend, which would serve the same as `/metrics`.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping

from quire.shared.link import Client, wait
from quire.shared.messages import Hello, Report
from quire.shared.run_directory import RunDirectory

_SECONDS = 10.0


def samples_of(run_dir: str, name: str) -> dict[str, float]:
    """Of the next report of a service, which may be a second old. Raises RuntimeError where none comes."""
    entry = RunDirectory(run_dir).entry(name)
    if entry is None:
        raise RuntimeError(f"there is no {name} in {run_dir}")
    own = f"bench-{os.getpid()}-{time.time_ns()}"
    client: Client[Report] = Client(entry.address, own, Report)
    try:
        client.send(Hello(own, time.time_ns()))
        deadline = time.monotonic() + _SECONDS
        while (left := deadline - time.monotonic()) > 0:
            wait([client], left)
            report = client.receive()
            if isinstance(report, Report):
                return report.samples
    finally:
        client.close()
    raise RuntimeError(f"{name} did not report within {_SECONDS:.0f} s")


def histogram_percentile(samples: Mapping[str, float], family: str, share: float) -> float:
    """Between the bounds of the bucket in which it lies; NaN of no values. `share` from 0 to 100."""
    begin = f'{family}_bucket{{le="'
    buckets = sorted(
        (math.inf if (bound := name[len(begin) : -2]) == "+Inf" else float(bound), count)
        for name, count in samples.items()
        if name.startswith(begin)
    )
    wanted = samples.get(f"{family}_count", 0.0) * share / 100
    low, below = 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted and count > below:
            return low if math.isinf(bound) else low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return math.nan
