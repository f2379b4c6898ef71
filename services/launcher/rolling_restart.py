"""Rolling restarts of a live server's services: `quire restart tokenizer`.

One after the other. A frontend's or tokenizer's successor is ready before it is asked to go; a frontend keeps its
clients until they are served. An engine, and the workers of one, which fall and rise together, own a device: they go
first, and are then started under their names; requests move on purpose (see Finished in messages.py). Knows no links.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from quire.shared.messages import Done, Replace

from .child import Child

RESTARTABLE = ("frontend", "tokenizer", "engine", "worker")
_WITH_SUCCESSOR = ("frontend", "tokenizer")
_HURRY_SECONDS = 0.1
"""Between two signals, so that they are seen as two."""


class _Round(msgspec.Struct):
    """Services that are replaced together."""

    old: list[str]
    new: list[str] = []
    leaving_since: float = 0.0
    """When the old ones were asked to go; 0: they were not."""
    is_hurried: bool = False


class _Roll(msgspec.Struct):
    """A command under way."""

    peer: str
    service: str
    rounds: list[_Round]
    """The first is under way; done ones are taken out."""
    num_done: int = 0


class RollingRestart:
    """At most one at a time. `start(name)` starts a service; `answer(peer, done)` goes to the operator."""

    def __init__(
        self,
        children: Mapping[str, Child],
        start: Callable[[str], None],
        answer: Callable[[str, Done], None],
        drain_seconds: float,
        restartable: tuple[str, ...] = RESTARTABLE,
    ) -> None:
        self._children = children
        self._start = start
        self._answer = answer
        self._drain_seconds = drain_seconds
        self._restartable = restartable
        self._roll: _Roll | None = None

    def __bool__(self) -> bool:
        return self._roll is not None

    def begin(self, peer: str, command: Replace) -> None:
        """Take a command; refuses what cannot be."""
        rounds = self._rounds(command)
        refusal = self._refusal(command, rounds)
        if refusal:
            self._answer(peer, Done(False, refusal))
        else:
            self._roll = _Roll(peer, command.service, rounds)

    def _rounds(self, command: Replace) -> list[_Round]:
        """Oldest first; the workers of one engine are one round."""
        groups: dict[str, list[str]] = {}
        for child in sorted(self._children.values(), key=lambda child: child.started):
            if child.kind == command.service and not child.is_stopping:
                group = child.name.rpartition("-")[0] if child.kind == "worker" else child.name
                groups.setdefault(group, []).append(child.name)
        return [_Round(names) for names in groups.values() if not command.name or command.name in names]

    def _refusal(self, command: Replace, rounds: list[_Round]) -> str:
        if command.service not in self._restartable:
            able = ", ".join(self._restartable)
            return f"{command.service!r} cannot be restarted here; can be: {able}"
        if self._roll is not None:
            return f"a restart of {self._roll.service} is under way"
        if not rounds:
            return f"no {command.name or command.service} of kind {command.service} runs here"
        return ""

    def is_starting(self, name: str) -> bool:
        """Whether it is a successor that was not ready yet: without it the old one stays."""
        roll = self._roll
        return roll is not None and not roll.rounds[0].leaving_since and name in roll.rounds[0].new

    def advance(self, now: float, given_up: Mapping[str, str]) -> None:
        """Go on where it is possible. `given_up`: services that stay down, and why."""
        roll = self._roll
        if roll is None:
            return
        turn = roll.rounds[0]
        if roll.service in _WITH_SUCCESSOR and not turn.new:
            turn.new = [self._free_name(roll.service)]
            self._start(turn.new[0])
        elif not turn.leaving_since and self._are_ready(turn.new):
            turn.leaving_since = now
            for _, child in self._old(turn):
                child.ask_to_leave()
        elif not turn.leaving_since:
            if not all(name in self._children for name in turn.new):
                self._end(False, f"{turn.new[0]} could not be started; the server's output says why")
        elif any(child.is_stopping or name not in turn.new for name, child in self._old(turn)):
            self._see_off(roll.service, turn, now)
        elif not turn.new:
            turn.new = list(turn.old)
            for name in turn.new:
                self._start(name)
        elif failed := next((name for name in turn.new if name in given_up), ""):
            self._end(False, f"{failed} stays down: {given_up[failed]}")
        elif self._are_ready(turn.new):
            roll.rounds.pop(0)
            roll.num_done += len(turn.old)
            if not roll.rounds:
                self._end(True, f"{roll.num_done} of kind {roll.service} restarted")

    def _old(self, turn: _Round) -> list[tuple[str, Child]]:
        return [(name, self._children[name]) for name in turn.old if name in self._children]

    def _see_off(self, service: str, turn: _Round, now: float) -> None:
        """A tokenizer that is asked once finishes what it has; asked again it lets it go, to be resumed elsewhere."""
        seconds = now - turn.leaving_since
        is_due = service == "tokenizer" and not turn.is_hurried and seconds >= _HURRY_SECONDS
        for _, child in self._old(turn):
            if seconds >= self._drain_seconds:
                child.kill()
            elif is_due:
                child.ask_to_stop()
        turn.is_hurried = turn.is_hurried or is_due

    def _are_ready(self, names: list[str]) -> bool:
        return all(name in self._children and self._children[name].is_ready for name in names)

    def _free_name(self, kind: str) -> str:
        index = 0
        while f"{kind}-{index}" in self._children:
            index += 1
        return f"{kind}-{index}"

    def _end(self, is_ok: bool, text: str) -> None:
        roll, self._roll = self._roll, None
        if roll is not None:
            self._answer(roll.peer, Done(is_ok, text))
