"""What the death of a child means for the rest: start it again, go on without it, or stop.

A service that keeps crashing is started again ever later, and after too many crashes in a minute not
at all. The supervisor sees and carries out; this decides. Knows no processes and no links.
"""

from __future__ import annotations

from collections import deque
from typing import Protocol, TypeAlias

import msgspec

from .child import Ending

CRASH_BUDGET = 5
"""Crashes of one service within BUDGET_SECONDS after which it stays down."""
BUDGET_SECONDS = 60.0
_FIRST_BACK_OFF_SECONDS = 0.5
"""Before the second restart within the window; the first comes at once, then it doubles."""
_LONGEST_BACK_OFF_SECONDS = 30.0

_STATELESS = "tokenizer-"
"""Of these a crash after some service counts nothing: another one goes on with their requests, a request that
kills them is ended by its frontend, and what comes back holds no device."""
_SETTLED_SECONDS = 2.0


class Loss(msgspec.Struct, frozen=True):
    """A child that ended without being asked to."""

    name: str
    ending: Ending
    was_ready: bool
    is_server_ready: bool
    """The server as a whole had been ready before."""
    served_seconds: float = 0.0
    """Since it was ready; 0 if it never was."""
    is_added: bool = False
    """It was added to a running server and never got ready since."""
    group: str = ""
    """Whose crashes are counted as one's; empty: its own."""


class StopAll(msgspec.Struct, frozen=True):
    """End every service; `cause` is the last line printed."""

    cause: str


class GiveUp(msgspec.Struct, frozen=True):
    """Go on without it."""

    cause: str


class Restart(msgspec.Struct, frozen=True):
    """Start it again after a while."""

    cause: str
    delay_seconds: float


class StayDown(msgspec.Struct, frozen=True):
    """Do not start it any more, but keep the rest up to say why."""

    cause: str


Decision: TypeAlias = StopAll | GiveUp | Restart | StayDown


class CrashPolicy(Protocol):
    def decide(self, loss: Loss, now: float) -> Decision: ...


def describe(name: str, ending: Ending) -> str:
    """One line: who, why, how."""
    if not ending.cause:
        return f"{name} ended without a word ({ending.how})"
    return f"{name}: {ending.cause} ({ending.how})"


class StopOnLoss:
    """Every service is needed, but for one that was added later and never got ready."""

    def decide(self, loss: Loss, now: float) -> Decision:
        cause = describe(loss.name, loss.ending)
        if loss.is_server_ready and not loss.was_ready:
            return GiveUp(cause)
        return StopAll(cause)


class RestartOnLoss:
    """A server that has been ready once mends itself; one that never was says why and ends."""

    def __init__(self) -> None:
        self._crashes: dict[str, deque[float]] = {}

    def decide(self, loss: Loss, now: float) -> Decision:
        cause = describe(loss.name, loss.ending)
        if not loss.is_server_ready:
            return StopAll(cause)
        if loss.is_added:
            return GiveUp(cause)
        if loss.name.startswith(_STATELESS) and loss.served_seconds >= _SETTLED_SECONDS:
            return Restart(cause, 0.0)
        crashes = self._crashes.setdefault(loss.group or loss.name, deque())
        while crashes and now - crashes[0] > BUDGET_SECONDS:
            crashes.popleft()
        crashes.append(now)
        if len(crashes) >= CRASH_BUDGET:
            return StayDown(f"{len(crashes)} crashes within {BUDGET_SECONDS:.0f} s, the last: {cause}")
        num_before = len(crashes) - 1
        delay = _FIRST_BACK_OFF_SECONDS * 2 ** (num_before - 1) if num_before else 0.0
        return Restart(cause, min(delay, _LONGEST_BACK_OFF_SECONDS))
