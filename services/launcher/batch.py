"""`quire batch -i IN -o OUT`: answers a file of requests in OpenAI's batch format, by a server of its own or another.

Run again it goes on where it was stopped. The requests themselves are batch_runner.py's, the files batch_file.py's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

from .api_client import ApiClient, ApiError
from .batch_file import BatchFileError, BatchInput, BatchResults
from .batch_runner import BatchRunner
from .preflight import LaunchError
from .private_server import PrivateServer
from .serve_flags import parse_values
from .terminal import Terminal


def batch(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="quire batch",
        usage="quire batch -i IN -o OUT [MODEL] [flags of quire serve]\n       quire batch -i IN -o OUT --url URL",
        description="Answer a file of requests in OpenAI's batch format: a JSON object a line with custom_id, method,"
        " url and body. Run again with the same files it goes on where it was stopped, and asks again for what failed.",
        allow_abbrev=False,
    )
    parser.add_argument("-i", "--input", required=True, type=Path, metavar="IN", help="file of requests")
    parser.add_argument("-o", "--output", required=True, type=Path, metavar="OUT", help="file of answers, added to")
    parser.add_argument("--url", help="a running server (default: one is started for this batch and ended with it)")
    parser.add_argument("--concurrency", type=int, default=128, help="requests at once (default: 128)")
    parser.add_argument("--attempts", type=int, default=4, help="tries of a request that gets no answer (default: 4)")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds for one answer (default: 3600)")
    given, rest = parser.parse_known_args(argv)
    if given.concurrency < 1 or given.attempts < 1:
        parser.error("--concurrency and --attempts are at least 1")
    if given.url is None:
        parse_values(rest)  # a wrong flag ends here, before anything is read
    elif rest and rest[0] != "--api-key":
        parser.error(f"{rest[0]}: with --url the running server has its own model and flags")
    terminal = Terminal()
    try:
        wanted = BatchInput(given.input)
        results = BatchResults(given.output, wanted)
    except BatchFileError as error:
        print(f"quire: {error}", file=sys.stderr)
        return 1
    with contextlib.closing(results), contextlib.ExitStack() as stack:
        if len(results.done) == len(wanted):
            terminal.line(f"all {len(wanted)} requests of {given.input} are answered in {given.output}")
            return 0
        try:
            if given.url is None:
                terminal.status("    starting a server")
                server = stack.enter_context(PrivateServer(rest, lambda line: terminal.status(f"    {line}")))
                client = ApiClient(server.url, server.api_key, given.timeout)
            else:
                key = rest[1] if len(rest) > 1 else os.environ.get("QUIRE_API_KEY")
                client = ApiClient(given.url, key, given.timeout)
                client.first_model()
        except (LaunchError, ApiError) as error:
            terminal.status("")
            print(f"quire: {error}", file=sys.stderr)
            return 1
        return BatchRunner(client, wanted, results, terminal, given.concurrency, given.attempts).run()
