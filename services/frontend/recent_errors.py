"""The last errors that were the server's own, for /status: what, when, and of which request.

Filled by app.py and generation.py. Bounded; holds our own sentences, never a client's text or an exception's.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import msgspec

from quire.shared.errors import ApiError

_MAX_ERRORS = 32


class _Noted(msgspec.Struct):
    at: float
    """Unix seconds."""
    request_id: str
    code: str
    message: str
    num_times: int = 1


class RecentErrors:
    """The newest last; the same error again is counted, not kept twice."""

    def __init__(self) -> None:
        self._noted: deque[_Noted] = deque(maxlen=_MAX_ERRORS)

    def note(self, error: ApiError, request_id: str) -> None:
        """Nothing is kept of errors that are the client's."""
        if error.status < 500:
            return
        last = self._noted[-1] if self._noted else None
        if last is not None and (last.code, last.message) == (error.code, error.message):
            last.at, last.request_id = time.time(), request_id
            last.num_times += 1
        else:
            self._noted.append(_Noted(time.time(), request_id, error.code, error.message))

    def as_json(self) -> list[dict[str, Any]]:
        return [msgspec.structs.asdict(noted) for noted in self._noted]
