"""A rank's place in its tensor-parallel group, and the few collectives that layers need.

Every rank carries out every plan. Sums and gathered logits are the same bytes on all, so that all draw the same tokens.
How ranks find each other is rendezvous.py's; a group of one has nothing to do here.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

from quire.shared.sharding import vocab_part

from .errors import GroupError
from .plan_ledger import PlanLedger


class RankGroup:
    """`size` ranks, of which this is `rank`. Joined once, before the first collective.

    Collectives block the host on a CPU; on a GPU they are work of the current stream and may be captured in a graph.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank = rank
        self.size = size
        self._process_group: dist.ProcessGroup | None = None
        self._ledger: PlanLedger | None = None

    def join(self, process_group: dist.ProcessGroup, ledger: PlanLedger | None = None) -> None:
        """From now on collectives go over this group of torch's (or one backend of it)."""
        self._process_group = process_group
        self._ledger = ledger

    def begin_plan(self) -> None:
        """To be called before each plan."""
        if self._ledger is not None:
            self._ledger.begin()

    def check_plans(self) -> None:
        """Raises GroupError if another rank is in a plan that never came here. When no plan can be on its way."""
        if self._ledger is not None:
            self._ledger.check()

    @property
    def _joined(self) -> dist.ProcessGroup:
        if self._process_group is None:
            raise RuntimeError("a collective before the group was joined")
        return self._process_group

    def all_reduce(self, x: torch.Tensor) -> torch.Tensor:
        """The sum over ranks of a contiguous x, in place; the same bytes on every rank. Returns x."""
        if self.size > 1:
            self._end(self._joined.allreduce([x]))
        return x

    def gather_columns(self, x: torch.Tensor, num_columns: int) -> torch.Tensor:
        """[N, C] of every rank, in the order of ranks, as contiguous [N, num_columns <= size * C]."""
        if self.size == 1:
            return x
        num_rows, width = x.shape
        gathered = x.new_empty(self.size * num_rows, width)
        self._end(self._joined._allgather_base(gathered, x.contiguous()))
        by_row = gathered.view(self.size, num_rows, width).transpose(0, 1).reshape(num_rows, self.size * width)
        return by_row[:, :num_columns].contiguous()

    def smallest(self, number: int, device: torch.device) -> int:
        """The least of the ranks' numbers."""
        if self.size == 1:
            return number
        numbers = torch.empty(self.size, dtype=torch.int64, device=device)
        self._end(self._joined._allgather_base(numbers, torch.tensor([number], device=device)))
        return int(numbers.min())

    def _end(self, work: dist.Work) -> None:
        """Wait for a collective, a GPU's stream instead of the host. Raises GroupError when a rank is gone."""
        try:
            work.wait()
        except RuntimeError as error:
            first = str(error).partition("\n")[0]
            raise GroupError(f"a collective of {self.size} ranks failed on rank {self.rank}: {first}") from error

    def vocab_rows(self, vocab_size: int) -> tuple[int, int]:
        """[first, end) of the vocabulary that this rank holds; empty where padding is all there is."""
        rows = vocab_part(vocab_size, self.size)
        first = min(self.rank * rows, vocab_size)
        return first, min(first + rows, vocab_size)


ALONE = RankGroup()
