"""The operator's side of the link to a live server's launcher: find it, ask it, wait for its answer.

Used by the commands that change a running server (scale.py, restart.py). The launcher's side is control_link.py.
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from quire.shared.link import Client, wait
from quire.shared.messages import Done, FromLauncher, Hello, Replace, Scale
from quire.shared.run_directory import Entry, RunDirectory, RunDirectoryError

from .server_directories import live_servers


def add_flags(parser: argparse.ArgumentParser, timeout_seconds: float) -> None:
    """Which server is meant, and how long to wait for it."""
    parser.add_argument("--run-dir", help="run directory of the server; absent: the only server of this user")
    parser.add_argument(
        "--timeout",
        type=float,
        default=timeout_seconds,
        help=f"seconds to wait for the answer (default: {timeout_seconds:g})",
    )


def carry_out(command: Scale | Replace, run_dir: str | None, timeout_seconds: float) -> int:
    """Have the launcher do it; prints its answer and returns the exit code."""
    try:
        launcher = find_launcher(run_dir)
    except (LookupError, RunDirectoryError) as error:
        print(f"quire: {error.args[0]}", file=sys.stderr)
        return 1
    done = _ask(launcher, command, timeout_seconds)
    print(done.text if done.is_ok else f"quire: {done.text}", file=sys.stdout if done.is_ok else sys.stderr)
    return 0 if done.is_ok else 1


def find_launcher(run_dir: str | None) -> Entry:
    """The launcher of the server in `run_dir`, or of the only one. Raises LookupError with a sentence."""
    if run_dir is None:
        servers = live_servers()
        if not servers:
            raise LookupError("no server of this user is running")
        if len(servers) > 1:
            listed = ", ".join(str(path) for path in servers)
            raise LookupError(f"{len(servers)} servers are running; name one with --run-dir: {listed}")
        run_dir = str(servers[0])
    if not os.path.isdir(run_dir):
        raise LookupError(f"run directory {run_dir} does not exist")
    directory = RunDirectory(run_dir)
    try:
        entry = directory.entry("launcher-0")
    finally:
        directory.close()
    if entry is None:
        raise LookupError(f"no launcher is running in {run_dir}")
    return entry


def _ask(launcher: Entry, command: Scale | Replace, timeout_seconds: float) -> Done:
    """Send one command and wait for its answer; a time-out is an answer too."""
    incarnation = time.time_ns()
    client: Client[FromLauncher] = Client(launcher.address, f"operator-{os.getpid()}-{incarnation}", FromLauncher)
    try:
        client.send(Hello(f"operator-{os.getpid()}", incarnation))
        client.send(command)
        deadline = time.monotonic() + timeout_seconds
        while (left := deadline - time.monotonic()) > 0:
            wait([client], left)
            while (message := client.receive()) is not None:
                if isinstance(message, Done):
                    return message
        return Done(False, f"the launcher did not answer within {timeout_seconds:g} s")
    finally:
        client.close()
