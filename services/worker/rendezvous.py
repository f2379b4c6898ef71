"""How the ranks of a group find each other: in a file of the run directory, which is closed to all other users.

The file is named after rank 0's incarnation, so that nobody meets what is left of an earlier group. Once all are
joined it is removed. What gloo and NCCL then talk over is bound to the loopback: ranks share a machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from msgspec import Struct

from quire.shared.run_directory import RunDirectory

from .errors import DeviceError
from .plan_ledger import PlanLedger
from .tensor_parallel import RankGroup

_POLL_SECONDS = 0.05
_COLLECTIVE_LIMIT = timedelta(minutes=10)
"""Only for ranks that nobody watches; else a rank that is gone or frozen ends its group long before."""
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}


class Member(Struct, frozen=True):
    """One process of a group."""

    name: str
    incarnation: int


def group_of(name: str, size: int) -> RankGroup:
    """The place in its group of the worker of that name, worker-ENGINE-RANK. Raises DeviceError."""
    found = re.fullmatch(r"worker-\d+-(\d+)", name)
    rank = int(found[1]) if found else 0
    if size > 1 and (found is None or rank >= size):
        raise DeviceError(
            f"--name {name} with --tensor-parallel-size {size}: workers are named worker-ENGINE-RANK, ranks from 0 to"
            f" {size - 1}"
        )
    return RankGroup(rank, size)


class Rendezvous:
    """Of one rank: `meet`, watch the members from then on, `join`. Blocks; to be called off the main thread."""

    def __init__(self, group: RankGroup, me: Member, run_dir: Path, device: torch.device) -> None:
        self._group = group
        self._me = me
        self._device = device
        self._directory = RunDirectory(run_dir)
        self._prefix = me.name.rpartition("-")[0]
        self._file = Path()
        self._store: Any = None

    def meet(self, facts: str) -> list[Member]:
        """Wait until all are there; the others. Raises DeviceError unless all say the same `facts`."""
        while True:
            first = self._await_first()
            self._file = self._directory.path / f"{self._prefix}.{first.incarnation}.rendezvous"
            self._store = dist.FileStore(str(self._file), self._group.size)  # pyright: ignore[reportPrivateImportUsage]
            # A file that is gone is awaited for as long as this; then we look who is rank 0 now.
            self._store.set_timeout(timedelta(seconds=1))
            self._store.set(str(self._group.rank), f"{self._me.incarnation} {facts}")
            said = self._await_all(first)
            if said is not None:
                break
        members = []
        for rank, text in said.items():
            incarnation, _, theirs = text.partition(" ")
            if theirs != facts:
                raise DeviceError(
                    f"ranks must compute the same way: rank {rank} has {theirs}, rank {self._group.rank} {facts}"
                )
            members.append(Member(f"{self._prefix}-{rank}", int(incarnation)))
        return members

    def join(self) -> None:
        """Make the process group, and remove what the meeting left."""
        for name, interface in _LOOPBACK.items():
            os.environ.setdefault(name, interface)
        self._store.set_timeout(_COLLECTIVE_LIMIT)
        is_cuda = self._device.type == "cuda"
        dist.init_process_group(
            "nccl" if is_cuda else "gloo",
            store=self._store,
            rank=self._group.rank,
            world_size=self._group.size,
            timeout=_COLLECTIVE_LIMIT,
            device_id=torch.device("cuda", torch.cuda.current_device()) if is_cuda else None,
        )
        ledger_file = self._file.with_suffix(".plans")
        self._group.join(dist.distributed_c10d._get_default_group(), PlanLedger(ledger_file, self._group))
        # NCCL connects with the first collective; after it all have opened both files.
        self._group.smallest(0, self._device)
        if self._group.rank == 0:
            self._file.unlink(missing_ok=True)
            ledger_file.unlink(missing_ok=True)
        self._directory.close()

    def _await_first(self) -> Member:
        """Rank 0, as soon as it is registered; it clears away the files of groups before it."""
        if self._group.rank == 0:
            for file in self._directory.path.glob(f"{self._prefix}.*.*"):
                # Another rank may have begun the one that is named after this incarnation.
                if file.suffix in (".rendezvous", ".plans") and file.stem != f"{self._prefix}.{self._me.incarnation}":
                    file.unlink(missing_ok=True)
            return self._me
        while True:
            entry = self._directory.entry(f"{self._prefix}-0")
            if entry is not None:
                return Member(entry.name, entry.incarnation)
            time.sleep(_POLL_SECONDS)

    def _await_all(self, first: Member) -> dict[int, str] | None:
        """What each other rank says; None once rank 0 is another."""
        others = [rank for rank in range(self._group.size) if rank != self._group.rank]
        while True:
            with contextlib.suppress(RuntimeError):
                # Rank 0 of another incarnation removes the file.
                if self._file.exists() and all(self._store.check([str(rank)]) for rank in others):
                    return {rank: self._store.get(str(rank)).decode() for rank in others}
            if self._group.rank != 0:
                entry = self._directory.entry(first.name)
                if entry is None or entry.incarnation != first.incarnation:
                    return None
            time.sleep(_POLL_SECONDS)
