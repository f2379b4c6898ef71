"""What an operator may have a running server do, and whether it may be done now: scale, restart.

Held by the supervisor; each kind of change has a file of its own. Knows no links.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from quire.shared.messages import Done, Replace, Scale

from .child import Child
from .rolling_restart import RESTARTABLE, RollingRestart
from .scaling import Scaling


class OperatorCommands:
    """The changes under way. `start(name)` starts a service; `answer(peer, done)` goes to the operator."""

    def __init__(
        self,
        children: Mapping[str, Child],
        start: Callable[[str], None],
        answer: Callable[[str, Done], None],
        drain_seconds: float,
        scalable: tuple[str, ...],
    ) -> None:
        self._answer = answer
        # What cannot be scaled is an engine with its workers: there is no tokenizer of ours.
        restartable = RESTARTABLE if scalable else ("engine", "worker")
        self._scaling = Scaling(children, start, answer, drain_seconds, scalable)
        self._rolling = RollingRestart(children, start, answer, drain_seconds, restartable)

    def begin(self, peer: str, command: Scale | Replace, hindrance: str, now: float) -> None:
        """Carry a command out, or say why not. `hindrance`: what of the server as a whole forbids any."""
        if not hindrance and isinstance(command, Replace) and self._scaling:
            hindrance = "the number of services is being changed; please try again"
        if not hindrance and isinstance(command, Scale) and self._rolling:
            hindrance = "services are being restarted; please try again"
        if hindrance:
            self._answer(peer, Done(False, hindrance))
        elif isinstance(command, Scale):
            self._scaling.begin(peer, command, now)
        else:
            self._rolling.begin(peer, command)

    def is_starting(self, name: str) -> bool:
        """Whether it was added by a command that is not done yet: without it the server is what it was."""
        return self._scaling.is_starting(name) or self._rolling.is_starting(name)

    def advance(self, now: float, given_up: Mapping[str, str]) -> None:
        """Go on with what is under way. `given_up`: services that stay down, and why."""
        self._scaling.advance(now)
        self._rolling.advance(now, given_up)
