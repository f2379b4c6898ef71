"""`quire chat`: a conversation with a server, in the terminal.

Keeps the messages and sends them all with each question; the request itself is api_client.py's.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Generator
from typing import Any

from .api_client import ApiClient, ApiError
from .client_flags import add_sampling_flags, add_server_flags, settings

_HELP = "/reset starts over, /exit leaves, Ctrl-C stops an answer"


def chat(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="quire chat", description=f"Chat with a server. {_HELP}.")
    parser.add_argument("--system", help="system message")
    add_server_flags(parser)
    add_sampling_flags(parser)
    given = parser.parse_args(argv)
    try:
        client = ApiClient(given.url, given.api_key)
        _converse(client, settings(given, client), given.system)
    except ApiError as error:
        print(f"quire: {error}", file=sys.stderr)
        return 1
    return 0


def _converse(client: ApiClient, fields: dict[str, Any], system: str | None) -> None:
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    is_tty = sys.stdin.isatty()
    if is_tty:
        print(f"{fields['model']} at {client.url}. {_HELP}.")
        _enable_line_editing()
    while True:
        try:
            line = input("> " if is_tty else "").strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            print()
            return
        if line in ("/exit", "/quit"):
            return
        if line == "/reset":
            messages = list(start)
        elif line.startswith("/"):
            print(_HELP)
        elif line:
            messages.append({"role": "user", "content": line})
            answer = _answer(client, {**fields, "messages": messages}, is_tty)
            messages.append({"role": "assistant", "content": answer})


def _answer(client: ApiClient, body: dict[str, Any], is_tty: bool) -> str:
    """Print an answer as it comes. On a terminal an error ends the answer only, otherwise the conversation."""
    pieces: list[str] = []
    deltas = _deltas(client, body)
    try:
        for delta in deltas:
            pieces.append(delta)
            print(delta, end="", flush=True)
    except KeyboardInterrupt:
        print(" (stopped)", end="")
    except ApiError as error:
        if not is_tty:
            raise
        print(f"quire: {error}", end="")
    finally:
        deltas.close()
    print()
    return "".join(pieces)


def _deltas(client: ApiClient, body: dict[str, Any]) -> Generator[str, None, None]:
    with contextlib.closing(client.events("/v1/chat/completions", body)) as events:
        for event in events:
            for choice in event.get("choices", ()):
                yield choice["delta"].get("content") or ""


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401  (importing it gives input() its line editing)
    except ImportError:
        pass
