"""What carries out plans on a model that is loaded and configured: two kinds, of one interface.

host_runner.py computes while it is handed a plan: the CPU's. device_runner.py hands it on to a device and goes
on: a GPU's. Between model_runner.py, which makes one for a configuration, and the tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

import torch

from quire.shared.messages import Masks, Plan, StepResult

from .attention_metadata import AttentionMetadata
from .errors import PlanError
from .kv_cache import KVCache

WaitForMasks: TypeAlias = Callable[[int], Masks]
"""The masks of a step, which a plan says will come; called when its logits are there or under way."""


def no_masks(step: int) -> Masks:
    """Where nobody sends any."""
    raise PlanError(f"step {step} awaits masks, and there is nobody to send them")


class Model(Protocol):
    """Of a model what a step needs; see models/decoder.py."""

    def forward(self, input_ids: torch.Tensor, metadata: AttentionMetadata, kv_cache: KVCache) -> torch.Tensor: ...

    def compute_logits(self, hidden: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor: ...


class StepRunner(Protocol):
    """Plans are carried out in the order they are submitted, and answered in it."""

    def submit(self, plan: Plan, wait_for_masks: WaitForMasks) -> None:
        """Carry out one plan, or have it carried out. Raises PlanError, and what `wait_for_masks` raises."""
        ...

    def collect(self) -> list[StepResult]:
        """Answers that are there and were not collected yet; never waits."""
        ...

    def wait(self) -> None:
        """Until there is something to collect, if anything has been submitted that was not collected."""
        ...

    def fileno(self) -> int | None:
        """A descriptor that is readable when there is something to collect; None: as soon as submit returns."""
        ...

    def close(self) -> None:
        """Done with: waits for what was submitted."""
        ...
