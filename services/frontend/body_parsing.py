"""Where a body is parsed: small ones at once, large ones on a thread, so that streams go on meanwhile.

Decoding megabytes of JSON takes tens of milliseconds. A thread gives the interpreter back between its
calls, which are kept short (see id_lists.py). Knows nothing of what is parsed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_LARGE_BYTES = 128 << 10
SWITCH_SECONDS = 0.0005
"""How long the thread may keep the interpreter from the event loop, between its calls."""

Parsed = TypeVar("Parsed")


class BodyParser:
    """One thread: large bodies are parsed one after another."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="parse-large")

    async def parse(self, parse: Callable[[bytes], Parsed], body: bytes) -> Parsed:
        """Whatever `parse` gives or raises."""
        if len(body) < _LARGE_BYTES:
            return parse(body)
        return await self._loop.run_in_executor(self._thread, parse, body)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
