"""The HTTP API from the client's side, for the commands that talk to a server: the standard library alone.

One connection a request, closed with its answer. Knows the envelope of errors and of events, no endpoint's fields.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Generator
from typing import Any
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:8000"


class ApiError(RuntimeError):
    """A sentence for the person at the terminal. `status` is 0 when no answer came."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class ApiClient:
    """Asks one server, from several threads if need be. Raises ApiError when it cannot be reached or refuses."""

    def __init__(self, url: str, api_key: str | None = None, timeout_seconds: float = 300.0) -> None:
        parts = urlsplit(url if "//" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ApiError(f"--url {url} is not an http address")
        self.url = url
        self._class = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_seconds = timeout_seconds

    def first_model(self) -> str:
        with self.request("GET", "/v1/models") as response:
            models = json.load(response).get("data") or []
        if not models:
            raise ApiError(f"{self.url} serves no model")
        return models[0]["id"]

    def events(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The data of one stream's events. Close the iterator to stop the answer on the server too."""
        with self.request("POST", path, {**body, "stream": True}) as response:
            for raw in response:
                line = raw.decode("utf-8", "replace").rstrip("\r\n")
                if not line.startswith("data:"):
                    continue
                data = line[5:].strip()
                if data == "[DONE]":
                    return
                event = json.loads(data)
                if "error" in event:
                    raise ApiError(event["error"].get("message", data))
                yield event
        raise ApiError("the answer broke off")

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Response:
        """An answer of 200, to be closed."""
        response = self.send(method, path, body)
        if response.status != 200:
            with response as answer:
                text = answer.read().decode("utf-8", "replace")
            raise ApiError(_error_message(response.status, text), response.status)
        return response

    def send(self, method: str, path: str, body: dict[str, Any] | None = None) -> Response:
        """An answer of any status, to be closed."""
        connection = self._class(self._host, self._port, timeout=self._timeout_seconds)
        headers = {**self._headers, "Content-Type": "application/json"} if body is not None else self._headers
        try:
            connection.request(method, self._prefix + path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise ApiError(f"{self.url} cannot be reached: {error}") from None
        return Response(connection, response)


class Response:
    """An answer and the connection it came by, closed together."""

    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self._connection = connection
        self._response = response
        self.status = response.status

    def header(self, name: str) -> str | None:
        return self._response.getheader(name)

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
