"""A cache of what was computed, bounded in bytes: the least recently used goes first.

Not thread-safe: its owner holds a lock, or is the only thread.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

Value = TypeVar("Value")


class ByteLru(Generic[Value]):
    """Holds at most `max_bytes` as its caller counts them; what is larger alone is not kept."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, tuple[Value, int]] = OrderedDict()
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Value | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: bytes, value: Value, size_bytes: int) -> None:
        """`size_bytes` is of the value; the key is counted here."""
        _, old_size = self._entries.pop(key, (None, 0))
        self.size_bytes -= old_size
        size = size_bytes + len(key)
        if size > self._max_bytes:
            return
        self._entries[key] = (value, size)
        self.size_bytes += size
        while self.size_bytes > self._max_bytes:
            _, (_, dropped) = self._entries.popitem(last=False)
            self.size_bytes -= dropped
