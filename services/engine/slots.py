"""Slots: the rows of the workers' batch, and which of them the next plan must release."""

from __future__ import annotations


class Slots:
    """`count` slots; a released one is named in the next plan and can be taken again from then on."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count - 1, -1, -1))
        self._released: list[int] = []

    @property
    def num_free(self) -> int:
        return len(self._free)

    def take(self) -> int:
        """Raises IndexError when none is free."""
        return self._free.pop()

    def release(self, slot: int) -> None:
        """Free at once: a plan releases before it names new rows, and workers run plans in order."""
        self._released.append(slot)
        self._free.append(slot)

    def collect_released(self) -> list[int]:
        """The slots released since the last call."""
        released, self._released = self._released, []
        return released
