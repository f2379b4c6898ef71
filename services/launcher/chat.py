"""`quire chat`: a conversation in the terminal, with a running server or with one of its own.

Keeps the messages and sends them all with each question; the request itself is api_client.py's.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Generator
from contextlib import ExitStack
from typing import Any

from .api_client import DEFAULT_URL, ApiClient, ApiError
from .client_flags import add_sampling_flags, add_server_flags, settings
from .preflight import LaunchError
from .private_server import PrivateServer
from .serve_flags import parse_values
from .terminal import Terminal

_HELP = "/reset starts over, /exit leaves, Ctrl-C stops an answer"


def chat(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="quire chat",
        usage="quire chat [--url URL] [flags]\n       quire chat MODEL [flags] [flags of quire serve]",
        description=f"Chat with the server at --url, or at {DEFAULT_URL} if there is one; otherwise, and with a MODEL,"
        f" with one that is started for it and ended with it. {_HELP}.",
        allow_abbrev=False,
    )
    parser.add_argument("--system", help="system message")
    add_server_flags(parser)
    add_sampling_flags(parser)
    given, rest = parser.parse_known_args(argv)
    if rest and given.url is not None:
        parser.error(f"{rest[0]}: with --url the running server has its own model and flags")
    if rest:
        parse_values(rest)  # a wrong flag ends here
    with contextlib.ExitStack() as stack:
        try:
            client = _reach(given.url, given.api_key, rest, stack)
            _converse(client, settings(given, client), given.system)
        except (ApiError, LaunchError) as error:
            print(f"quire: {error}", file=sys.stderr)
            return 1
    return 0


def _reach(url: str | None, api_key: str | None, flags: list[str], stack: ExitStack) -> ApiClient:
    """The server that is meant; one that is started for it ends with the stack. Raises ApiError or LaunchError."""
    if url is not None:
        return ApiClient(url, api_key)
    if not flags:
        client = ApiClient(DEFAULT_URL, api_key)
        try:
            client.first_model()
            return client
        except ApiError as error:
            if error.status:
                raise
    terminal = Terminal()
    terminal.line(
        "starting a server for this chat" if flags else f"no server at {DEFAULT_URL}: starting one for this chat"
    )
    try:
        server = stack.enter_context(PrivateServer(flags, lambda line: terminal.status(f"    {line}")))
    finally:
        terminal.status("")
    return ApiClient(server.url, server.api_key)


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
            asked = [*messages, {"role": "user", "content": line}]
            answer = _answer(client, {**fields, "messages": asked}, is_tty)
            if answer:  # a question that got none is as if it had not been asked
                messages = [*asked, {"role": "assistant", "content": answer}]


def _answer(client: ApiClient, body: dict[str, Any], is_tty: bool) -> str:
    """Print an answer as it comes. On a terminal an error ends the answer only, otherwise the conversation."""
    pieces: list[str] = []
    deltas = _deltas(client, body)
    terminal = Terminal(sys.stdout)
    is_thinking = False
    try:
        for thought, delta in deltas:
            if thought and is_tty:
                print(terminal.dim(thought), end="", flush=True)
                is_thinking = True
            elif delta:
                print("\n\n" * is_thinking + delta, end="", flush=True)
                is_thinking = False
                pieces.append(delta)
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


def _deltas(client: ApiClient, body: dict[str, Any]) -> Generator[tuple[str, str], None, None]:
    """(reasoning, text) as they come."""
    with contextlib.closing(client.events("/v1/chat/completions", body)) as events:
        for event in events:
            for choice in event.get("choices", ()):
                delta = choice["delta"]
                yield delta.get("reasoning_content") or "", delta.get("content") or ""


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401  (importing it gives input() its line editing)
    except ImportError:
        pass
