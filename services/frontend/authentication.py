"""Who may call: API keys, denied by default, and the requests that are refused for their Host.

The first thing the application asks of a request. Knows keys and paths, nothing of what is served.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path

from quire.shared.config import FrontendConfig
from quire.shared.errors import INVALID_API_KEY, INVALID_REQUEST, ApiError

OPEN_PATHS = frozenset({b"/", b"/health", b"/health/live", b"/ready", b"/ping"})
"""What probes ask for, who without a key are told a status and nothing else; and the chat page's static file."""
_BAD_HOST = frozenset(b"/?#@\\ \t")


class Keys:
    """The API keys of a server; none means that everyone may call. Raises ValueError for a bad key file."""

    def __init__(self, keys: tuple[str, ...], open_metrics: bool = False) -> None:
        self._keys = [key.encode() for key in keys]
        self._open_paths = OPEN_PATHS | {b"/metrics"} if open_metrics else OPEN_PATHS

    @classmethod
    def of(cls, config: FrontendConfig) -> Keys:
        keys = list(config.api_key)
        if config.api_key_file is not None:
            try:
                lines = Path(config.api_key_file).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
                raise ValueError(f"--api-key-file {config.api_key_file}: {reason}") from None
            found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
            if not found:
                raise ValueError(f"--api-key-file {config.api_key_file} holds no key")
            keys += found
        return cls(tuple(keys), config.open_metrics)

    def check(self, raw_path: bytes, authorization: bytes | None) -> str:
        """A name for the caller's key that does not tell it, empty where there are none. `raw_path`: as it was sent.

        Raises ApiError (401): whatever is not open needs a key, also what is not there.
        """
        if not self._keys or raw_path in self._open_paths:
            return ""
        given = _given(authorization)
        if not given:
            message = "An API key is required: send the header Authorization: Bearer YOUR_KEY."
            raise ApiError(INVALID_API_KEY, message)
        if not self._has(given):
            raise ApiError(INVALID_API_KEY, "The API key is not one of this server's keys.")
        return hashlib.sha256(given).hexdigest()[:16]

    @property
    def are_several(self) -> bool:
        """Whether callers with different keys must be kept apart."""
        return len(self._keys) > 1

    def knows(self, authorization: bytes | None) -> bool:
        """Whether the caller may be told what goes on inside."""
        return not self._keys or self._has(_given(authorization))

    def _has(self, given: bytes) -> bool:
        is_known = False
        for key in self._keys:  # all of them, so that the time taken says nothing
            is_known |= hmac.compare_digest(key, given)
        return is_known


def _given(authorization: bytes | None) -> bytes:
    """The key of an Authorization header; empty when there is none."""
    scheme, _, given = (authorization or b"").partition(b" ")
    return given.strip() if scheme.lower() == b"bearer" else b""


def check_host(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a Host header that could make a URL mean something else, and two of them. Raises ApiError (400)."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (hosts and not _BAD_HOST.isdisjoint(hosts[0])):
        raise ApiError(INVALID_REQUEST, "The Host header is not a host name.")
