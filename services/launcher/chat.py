"""`quire chat`: a conversation with a server, in the terminal.

Speaks the HTTP API like any client, with the standard library alone; one connection an answer.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

_HELP = "/reset starts over, /exit leaves, Ctrl-C stops an answer"


class ChatError(RuntimeError):
    """A sentence for the person at the terminal."""


class ChatClient:
    """Asks one server. Raises ChatError when it cannot be reached or refuses."""

    def __init__(self, url: str, api_key: str | None = None, timeout_seconds: float = 300.0) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ChatError(f"--url {url} is not an http address")
        self.url = url
        self._class = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_seconds = timeout_seconds

    def first_model(self) -> str:
        with self._request("GET", "/v1/models") as response:
            models = json.load(response).get("data") or []
        if not models:
            raise ChatError(f"{self.url} serves no model")
        return models[0]["id"]

    def stream(self, body: dict[str, Any]) -> Iterator[str]:
        """The deltas of one answer. Close the iterator to stop the answer on the server too."""
        with self._request("POST", "/v1/chat/completions", {**body, "stream": True}) as response:
            for raw in response:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                if not line.startswith("data:"):
                    continue
                data = line[5:].strip()
                if data == "[DONE]":
                    return
                event = json.loads(data)
                if "error" in event:
                    raise ChatError(event["error"].get("message", data))
                for choice in event.get("choices", ()):
                    yield choice["delta"].get("content") or ""
        raise ChatError("the answer broke off")

    def _request(self, method: str, path: str, body: dict[str, Any] | None = None) -> _Response:
        connection = self._class(self._host, self._port, timeout=self._timeout_seconds)
        headers = {**self._headers, "Content-Type": "application/json"} if body is not None else self._headers
        try:
            connection.request(method, self._prefix + path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ChatError(f"{self.url} cannot be reached: {error}") from None
        if response.status != 200:
            text = response.read().decode("utf-8", "replace")
            connection.close()
            raise ChatError(_error_message(response.status, text))
        return _Response(connection, response)


class _Response:
    """An answer and the connection it came by, closed together."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response

    def __enter__(self) -> http.client.HTTPResponse:
        return self._response

    def __exit__(self, *exception: object) -> None:
        self._response.close()
        self._connection.close()


def _error_message(status: int, text: str) -> str:
    try:
        return f"{json.loads(text)['error']['message']} (HTTP {status})"
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}: {text[:200]}"


def chat(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="quire chat", description=f"Chat with a server. {_HELP}.")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="server (default: http://127.0.0.1:8000)")
    parser.add_argument("--api-key", default=os.environ.get("QUIRE_API_KEY"), help="key of the server")
    parser.add_argument("--model", help="served model (default: the first one)")
    parser.add_argument("--system", help="system message")
    parser.add_argument("--temperature", type=float, help="0 is greedy (default: the server's)")
    parser.add_argument("--max-tokens", type=int, help="longest answer")
    given = parser.parse_args(argv)
    sampling = {"temperature": given.temperature, "max_tokens": given.max_tokens}
    try:
        client = ChatClient(given.url, given.api_key)
        settings = {
            "model": given.model or client.first_model(),
            **{name: value for name, value in sampling.items() if value is not None},
        }
        _converse(client, settings, given.system)
    except ChatError as error:
        print(f"quire: {error}", file=sys.stderr)
        return 1
    return 0


def _converse(client: ChatClient, settings: dict[str, Any], system: str | None) -> None:
    start = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    is_tty = sys.stdin.isatty()
    if is_tty:
        print(f"{settings['model']} at {client.url}. {_HELP}.")
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
            answer = _answer(client, {**settings, "messages": messages}, is_tty)
            messages.append({"role": "assistant", "content": answer})


def _answer(client: ChatClient, body: dict[str, Any], is_tty: bool) -> str:
    """Print an answer as it comes. On a terminal an error ends the answer only, otherwise the conversation."""
    pieces: list[str] = []
    deltas = client.stream(body)
    try:
        for delta in deltas:
            pieces.append(delta)
            print(delta, end="", flush=True)
    except KeyboardInterrupt:
        print(" (stopped)", end="")
    except ChatError as error:
        if not is_tty:
            raise
        print(f"quire: {error}", end="")
    finally:
        deltas.close()  # type: ignore[attr-defined]
    print()
    return "".join(pieces)


def _enable_line_editing() -> None:
    try:
        import readline  # noqa: F401  (importing it gives input() its line editing)
    except ImportError:
        pass
