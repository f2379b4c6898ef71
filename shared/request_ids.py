"""Request ids: 63-bit numbers that no two frontends and no two starts of one share.

Made by the frontend when a request has passed its door, carried by every message about it, and
shown to clients as `chatcmpl-<hex>` or `cmpl-<hex>`. Knows nothing of what is asked for.
"""

from __future__ import annotations

import secrets

from .messages import RequestId

_COUNTER_BITS = 24
_RANDOM_BITS = 63 - _COUNTER_BITS
_COUNTER_MASK = (1 << _COUNTER_BITS) - 1


class RequestIds:
    """A source of request ids: 39 random bits of this process, then a counter of 24 bits.

    When the counter is used up (16.7 million requests) the random part is drawn anew, so an id
    never comes twice from one source, and two sources meet with a chance of 2**-39.
    """

    def __init__(self) -> None:
        self._used: set[int] = set()
        self._counter = 0
        self._draw()

    def _draw(self) -> None:
        part = secrets.randbits(_RANDOM_BITS)
        while part in self._used:
            part = secrets.randbits(_RANDOM_BITS)
        self._used.add(part)
        self._high = part << _COUNTER_BITS

    def next(self) -> RequestId:
        request_id = self._high | self._counter
        self._counter = (self._counter + 1) & _COUNTER_MASK
        if self._counter == 0:
            self._draw()
        return RequestId(request_id)


def chat_id(request_id: RequestId) -> str:
    """How a chat completion's id is written."""
    return f"chatcmpl-{request_id:016x}"


def completion_id(request_id: RequestId) -> str:
    """How a text completion's id is written."""
    return f"cmpl-{request_id:016x}"


def message_id(request_id: RequestId) -> str:
    """How an Anthropic message's id is written."""
    return f"msg_{request_id:016x}"


def response_id(request_id: RequestId) -> str:
    """How a response's id is written."""
    return f"resp_{request_id:016x}"


def parse(text: str) -> RequestId | None:
    """The request id in either written form; None when there is none in it."""
    _, _, digits = text.rpartition("-")
    try:
        value = int(digits, 16)
    except ValueError:
        return None
    return RequestId(value) if 0 <= value < 1 << 63 else None
