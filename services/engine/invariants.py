"""The invariants of a scheduler, derived anew from its choices.

Tests run this after each step, and `--check-invariants` does in a server.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .request import Choice, Status

if TYPE_CHECKING:
    from .scheduler import Scheduler


def check(scheduler: Scheduler) -> None:
    """Blocks, prefix cache, queues and slots. Raises RuntimeError naming what is broken."""
    choices = [choice for request in scheduler.requests.values() for choice in request.choices]
    scheduler.blocks.check(choice.blocks for choice in choices)
    _check_status(scheduler.waiting, Status.WAITING)
    _check_status(scheduler.running, Status.RUNNING)
    slots, limits = [choice.slot for choice in scheduler.running], scheduler.limits
    num_free = scheduler.slots.num_free
    if len(set(slots)) != len(slots) or num_free + len(slots) != limits.max_num_seqs:
        raise RuntimeError(f"slots {slots} and {num_free} free ones are not {limits.max_num_seqs}")
    for choice in scheduler.running:
        if choice.num_computed > len(choice.blocks) * limits.block_size:
            raise RuntimeError(f"{choice.num_computed} computed tokens in {len(choice.blocks)} blocks")


def _check_status(choices: Iterable[Choice], status: Status) -> None:
    for choice in choices:
        if choice.status is not status:
            raise RuntimeError(f"a {choice.status.value} choice is among the {status.value}")
