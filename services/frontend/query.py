"""The query of a URL: its parameters by name, checked as they are read. An empty one is as none.

Used by the few endpoints that have any. Raises ApiError.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl

from quire.shared.errors import INVALID_VALUE, ApiError, echo

from .exchange import Exchange


class Query:
    def __init__(self, exchange: Exchange) -> None:
        found = parse_qsl(exchange.scope["query_string"].decode("latin-1"), max_num_fields=None)
        self._found = dict(found)

    def text(self, name: str) -> str | None:
        return self._found.get(name) or None

    def choice(self, name: str, choices: Sequence[str]) -> str:
        """The first one is what absence means."""
        given = self._found.get(name) or choices[0]
        if given not in choices:
            raise _wrong(name, f"must be {' or '.join(choices)}", given)
        return given

    def switch(self, name: str) -> bool:
        return self.choice(name, ("false", "true")) == "true"

    def number(self, name: str, least: int, most: int, default: int) -> int:
        given = self._found.get(name)
        if not given:
            return default
        if not (given.isascii() and given.isdigit() and len(given) < 10 and least <= int(given) <= most):
            raise _wrong(name, f"must be a number from {least} to {most}", given)
        return int(given)


def _wrong(name: str, what: str, given: str) -> ApiError:
    return ApiError(INVALID_VALUE, f"{name} {what}, got {echo(given)}", name)
