"""A rank's watch over the others of its group: a thread that ends this process when one of them is gone.

The main thread may be waiting in a collective for a rank that will never come, so it cannot look itself. Presence is
the lock in the run directory, which the kernel drops with the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from quire.shared.run_directory import RunDirectory

from .rendezvous import Member

_POLL_SECONDS = 0.1
_GRACE_SECONDS = 0.3
"""For this process to end by itself: the others may have been asked to stop, and so has it."""


class PeerWatch(threading.Thread):
    """Calls `on_loss(name)` once, in its own thread, some tenths of a second after one of `members` is gone."""

    def __init__(self, run_dir: Path, members: Sequence[Member], on_loss: Callable[[str], None]) -> None:
        super().__init__(name="peer watch", daemon=True)
        self._directory = RunDirectory(run_dir)
        self._members = members
        self._on_loss = on_loss
        self._is_over = threading.Event()

    def stop(self) -> None:
        self._is_over.set()

    def run(self) -> None:
        while not self._is_over.wait(_POLL_SECONDS):
            lost = next((member.name for member in self._members if not self._is_there(member)), None)
            if lost is not None:
                if not self._is_over.wait(_GRACE_SECONDS):
                    self._on_loss(lost)
                return

    def _is_there(self, member: Member) -> bool:
        entry = self._directory.entry(member.name)
        return entry is not None and entry.incarnation == member.incarnation
