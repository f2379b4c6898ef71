"""Responses that were stored, by id: in memory, within a number of bytes, the least recently used go first.

Each belongs to the key that made it and is nobody else's. One frontend's own: how others find them is in
siblings.py. What was stored is kept as JSON. Knows no shape.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec


class StoredResponse(msgspec.Struct):
    key_name: str
    """Of the API key that made it; empty when there are no keys."""
    status: str
    """in_progress | completed | incomplete | failed | cancelled."""
    answer: bytes
    """As it is shown."""
    input_items: bytes
    """As the client sent them."""
    messages: bytes
    """The whole conversation before the answer, as the chat template takes it."""
    cancel: Callable[[], None] | None = None
    """Ends it while it is under way."""

    @property
    def size_bytes(self) -> int:
        return len(self.answer) + len(self.input_items) + len(self.messages)


class ResponseStore:
    def __init__(self, max_size_bytes: int) -> None:
        self._max_size_bytes = max_size_bytes
        self._found: OrderedDict[str, StoredResponse] = OrderedDict()
        self.size_bytes = 0

    def put(self, response_id: str, stored: StoredResponse) -> None:
        """Keep it, or what it has become; one that is larger than the whole store is not kept."""
        self.delete(response_id)
        if stored.size_bytes > self._max_size_bytes:
            return
        self._found[response_id] = stored
        self.size_bytes += stored.size_bytes
        while self.size_bytes > self._max_size_bytes:
            _, oldest = self._found.popitem(last=False)
            self.size_bytes -= oldest.size_bytes

    def get(self, response_id: str, key_name: str) -> StoredResponse | None:
        """None also for one of another key."""
        stored = self._found.get(response_id)
        if stored is None or stored.key_name != key_name:
            return None
        self._found.move_to_end(response_id)
        return stored

    def delete(self, response_id: str) -> None:
        stored = self._found.pop(response_id, None)
        if stored is not None:
            self.size_bytes -= stored.size_bytes

    def take_all(self) -> list[tuple[str, StoredResponse]]:
        """Everything, the least recently used first; nothing is left."""
        found = list(self._found.items())
        self._found.clear()
        self.size_bytes = 0
        return found
