"""`quire complete [TEXT]`: continues a text on a server and prints it as it comes; the text may come by a pipe."""

from __future__ import annotations

import argparse
import sys

from .api_client import DEFAULT_URL, ApiClient, ApiError
from .client_flags import add_sampling_flags, add_server_flags, settings


def complete(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="quire complete", description="Continue a text.")
    parser.add_argument("text", nargs="?", help="what to continue (default: standard input)")
    parser.add_argument("--stop", action="append", help="text to end before (may be repeated)")
    add_server_flags(parser)
    add_sampling_flags(parser)
    given = parser.parse_args(argv)
    if given.text is None and sys.stdin.isatty():
        parser.error("there is no text to continue: give one, or send it by a pipe")
    prompt = sys.stdin.read() if given.text is None else given.text
    try:
        client = ApiClient(given.url or DEFAULT_URL, given.api_key)
        body = {"prompt": prompt, **settings(given, client)}
        if given.stop:
            body["stop"] = given.stop
        for event in client.events("/v1/completions", body):
            for choice in event.get("choices", ()):
                print(choice.get("text") or "", end="", flush=True)
    except ApiError as error:
        hint = "" if given.url or error.status else "; quire serve starts one, --url names another"
        print(f"quire: {error}{hint}", file=sys.stderr)
        return 1
    print()
    return 0
