"""What the death of a child means for the rest.

Today: the server stops when a service it needs is lost, and an extra tokenizer that never got
ready is given up. Restarting belongs here. The supervisor sees and carries out; this decides.
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

import msgspec

from .child import Ending


class Loss(msgspec.Struct, frozen=True):
    """A child that ended without being asked to."""

    name: str
    ending: Ending
    was_ready: bool
    is_server_ready: bool
    """The server as a whole had been ready before."""


class StopAll(msgspec.Struct, frozen=True):
    """End every service; `cause` is the last line printed."""

    cause: str


class GiveUp(msgspec.Struct, frozen=True):
    """Go on without it."""

    cause: str


Decision: TypeAlias = StopAll | GiveUp


class CrashPolicy(Protocol):
    def decide(self, loss: Loss) -> Decision: ...


def describe(name: str, ending: Ending) -> str:
    """One line: who, why, how."""
    if not ending.cause:
        return f"{name} ended without a word ({ending.how})"
    return f"{name}: {ending.cause} ({ending.how})"


class StopOnLoss:
    """Every service is needed, but for one that was added later and never got ready."""

    def decide(self, loss: Loss) -> Decision:
        cause = describe(loss.name, loss.ending)
        if loss.is_server_ready and not loss.was_ready:
            return GiveUp(cause)
        return StopAll(cause)
