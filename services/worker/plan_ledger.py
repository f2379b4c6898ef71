"""How many plans each rank of a group has begun, in memory that all ranks share.

An engine that dies between sending a plan to two ranks leaves the first in a collective that the second will never
come to. When the next engine configures the group, the second finds that out here.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import GroupError

if TYPE_CHECKING:
    from .tensor_parallel import RankGroup


class PlanLedger:
    """One number a rank. The file may be removed once every rank has opened it."""

    def __init__(self, file: Path, group: RankGroup) -> None:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, 8 * group.size)
            self._begun = np.frombuffer(mmap.mmap(descriptor, 8 * group.size), np.int64)
        finally:
            os.close(descriptor)
        self._rank = group.rank

    def begin(self) -> None:
        """This rank has a plan in hand."""
        self._begun[self._rank] += 1

    def check(self) -> None:
        """Between plans: raises GroupError if another rank is in one that never came to this one."""
        own = int(self._begun[self._rank])
        ahead = np.flatnonzero(self._begun > own)
        if len(ahead):
            raise GroupError(f"rank {ahead[0]} waits in a plan that never came to rank {self._rank}")
