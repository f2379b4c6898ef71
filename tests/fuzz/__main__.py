"""The fuzzers for long: every decoder, then the HTTP API of a running server. See scripts/fuzz."""

from __future__ import annotations

import argparse
import collections
import logging
import sys
import time
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "end_to_end"))

from running_server import serving

from .decoders import TARGETS, fuzz
from .http_api import probe


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description="Feed every decoder, and a server, with what may break them."
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs of each decoder (default: 100000)")
    parser.add_argument("--cases", type=int, default=2_000, help="HTTP requests (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other inputs (default: 0)")
    parser.add_argument("--only", nargs="*", metavar="NAME", help=f"decoders, of: {', '.join(TARGETS)}")
    given = parser.parse_args()
    logging.disable()
    for name in TARGETS if given.only is None else given.only:
        start = time.monotonic()
        taken = fuzz(name, given.inputs, given.seed, is_long=True)
        print(f"{name}: {given.inputs} inputs, {taken} taken, {time.monotonic() - start:.0f} s", flush=True)
    if given.cases:
        _probe_server(given.cases, given.seed)


def _probe_server(cases: int, seed: int) -> None:
    warnings.simplefilter("ignore")
    seen: dict[str, collections.Counter[int]] = {}
    with serving("--max-in-flight=600") as server:
        before = server.pids()
        while (done := sum(sum(counter.values()) for counter in seen.values())) < cases:
            for operation, counter in probe(server.url, min(500, cases - done), seed).items():
                seen.setdefault(operation, collections.Counter()).update(counter)
            seed += 1
            print(f"HTTP: {sum(sum(counter.values()) for counter in seen.values())} cases", flush=True)
        if server.pids() != before:
            sys.exit("a process was restarted")
    for operation, counter in seen.items():
        statuses = ", ".join(f"{count} x {status}" for status, count in sorted(counter.items()))
        print(f"{operation}: {statuses}")


main()
