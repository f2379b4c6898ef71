"""`quire health KIND`: do the services of a kind that run here answer, and are they ready?

For the health checks of containers, which share one run directory: a service is "here" when a
process that we can see holds the lock of its name.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from quire.shared.link import Client, Keys, wait
from quire.shared.messages import Hello, Report
from quire.shared.run_directory import Entry, RunDirectory, RunDirectoryError, default_path

from .topology import KINDS


def health(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="quire health", description="Exit with 0 when the services of a kind that run here are ready."
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--run-dir", default=os.environ.get("QUIRE_RUN_DIR") or str(default_path()))
    parser.add_argument("--key-file", default=os.environ.get("QUIRE_KEY_FILE") or None)
    parser.add_argument("--timeout", type=float, default=3.0, help="seconds to wait for an answer (default: 3)")
    given = parser.parse_args(argv)
    try:
        directory = RunDirectory(given.run_dir)
        keys = Keys.load(given.key_file) if given.key_file else None
    except (RunDirectoryError, ValueError) as error:
        print(f"quire: {error}", file=sys.stderr)
        return 1
    entries = [
        entry for name in sorted(set(_held_here(directory.path, given.kind))) if (entry := directory.entry(name))
    ]
    if not entries:
        print(f"no {given.kind} runs here")
        return 1
    states = {entry.name: _state(entry, keys, given.timeout) for entry in entries}
    print(", ".join(f"{name}: {state}" for name, state in states.items()))
    return 0 if all(state == "ready" for state in states.values()) else 1


def _held_here(run_dir: Path, kind: str) -> Iterator[str]:
    """Names of that kind whose lock is held by a process of our pid namespace."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            target = Path(os.readlink(link))
            if target.parent != run_dir or not target.name.startswith(f"{kind}-"):
                continue
            # A service also opens the files of its neighbours; only its own does it hold locked.
            if "OFDLCK" in (link.parent.parent / "fdinfo" / link.name).read_text():
                yield target.name
        except OSError:
            continue  # the process has ended, or is not ours to look at


def _state(entry: Entry, keys: Keys | None, timeout_seconds: float) -> str:
    """The state in the service's answer to a Hello."""
    name = f"operator-{os.getpid()}-{time.time_ns()}"
    client: Client[Report] = Client(entry.address, name, Report, None if entry.address.startswith("ipc://") else keys)
    try:
        client.send(Hello(name, time.time_ns()))
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            wait([client], left)
            report = client.receive()
            if report is not None:
                return report.state
        return "no answer"
    finally:
        client.close()
