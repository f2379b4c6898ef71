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

_OPEN_PATHS = frozenset({"/", "/health", "/health/live", "/ready", "/ping", "/version"})
"""What probes ask for, and the chat page's static file: nothing that tells of anyone."""
_BAD_HOST = frozenset(b"/?#@\\ \t")


class Keys:
    """The API keys of a server; none means that everyone may call. Raises ValueError for a bad key file."""

    def __init__(self, keys: tuple[str, ...], open_metrics: bool = False) -> None:
        self._keys = [key.encode() for key in keys]
        self._open_paths = _OPEN_PATHS | {"/metrics"} if open_metrics else _OPEN_PATHS

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

    def check(self, path: str, authorization: bytes | None) -> str:
        """A name for the caller's key, empty where keys do not matter. Raises ApiError (401)."""
        if not self._keys or path in self._open_paths:
            return ""
        scheme, _, given = (authorization or b"").partition(b" ")
        if scheme.lower() != b"bearer" or not given.strip():
            message = "An API key is required: send the header Authorization: Bearer YOUR_KEY."
            raise ApiError(INVALID_API_KEY, message)
        given = given.strip()
        is_known = False
        for key in self._keys:
            is_known |= hmac.compare_digest(key, given)
        if not is_known:
            raise ApiError(INVALID_API_KEY, "The API key is not one of this server's keys.")
        return hashlib.sha256(given).hexdigest()[:16] if len(self._keys) > 1 else ""


def check_host(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Refuse a Host header that could make a URL mean something else, and two of them. Raises ApiError (400)."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (hosts and not _BAD_HOST.isdisjoint(hosts[0])):
        raise ApiError(INVALID_REQUEST, "The Host header is not a host name.")
