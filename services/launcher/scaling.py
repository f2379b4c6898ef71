"""Changes of the number of services on a live server: `quire scale tokenizer=4`.

Up: start more, answer when they are ready. Down: ask the youngest to stop; each finishes its
requests first, and the answer comes when they are gone. Knows nothing of links.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from quire.shared.messages import Done, Scale

from .child import Child

_SCALABLE = ("tokenizer", "frontend")
_MAX_COUNT = 64


class _Change(msgspec.Struct):
    peer: str
    kind: str
    count: int
    starting: set[str]
    retiring: dict[str, float]
    """name -> when it is killed, monotonic seconds."""


class Scaling:
    """The changes under way. `start(name)` starts a service; `answer(peer, done)` goes to the operator."""

    def __init__(
        self,
        children: Mapping[str, Child],
        start: Callable[[str], None],
        answer: Callable[[str, Done], None],
        drain_seconds: float,
        scalable: tuple[str, ...] = _SCALABLE,
    ) -> None:
        self._children = children
        self._start = start
        self._answer = answer
        self._drain_seconds = drain_seconds
        self._scalable = scalable
        self._changes: list[_Change] = []

    def __bool__(self) -> bool:
        return bool(self._changes)

    def begin(self, peer: str, scale: Scale, now: float) -> None:
        """Take a command; refuses what cannot be."""
        refusal = self._refusal(scale)
        if refusal:
            self._answer(peer, Done(False, refusal))
            return
        staying = sorted(
            (child for child in self._children.values() if child.kind == scale.service and not child.is_stopping),
            key=lambda child: child.started,
        )
        change = _Change(peer, scale.service, scale.count, set(), {})
        for _ in range(scale.count - len(staying)):
            name = self._free_name(scale.service)
            change.starting.add(name)
            self._start(name)
        for child in staying[scale.count :]:
            child.ask_to_leave()
            change.retiring[child.name] = now + self._drain_seconds
        self._changes.append(change)

    def is_starting(self, name: str) -> bool:
        """Whether it was added by a change that is not done yet."""
        return any(name in change.starting for change in self._changes)

    def _refusal(self, scale: Scale) -> str:
        if scale.service not in self._scalable:
            able = " and ".join(self._scalable) or "nothing"
            return f"{scale.service!r} cannot be scaled here; {able} can"
        if not 1 <= scale.count <= _MAX_COUNT:
            return f"{scale.service}={scale.count} is out of range: 1 <= count <= {_MAX_COUNT}"
        if any(change.kind == scale.service for change in self._changes):
            return f"another change of {scale.service} is under way"
        return ""

    def _free_name(self, kind: str) -> str:
        index = 0
        while f"{kind}-{index}" in self._children:
            index += 1
        return f"{kind}-{index}"

    def advance(self, now: float) -> None:
        """Answer the changes that are done; kill who does not finish in time."""
        for change in list(self._changes):
            for name, deadline in list(change.retiring.items()):
                child = self._children.get(name)
                if child is None:
                    del change.retiring[name]
                elif now >= deadline:
                    child.kill()
            lost = [name for name in change.starting if name not in self._children]
            is_started = all(name in lost or self._children[name].is_ready for name in change.starting)
            if is_started and not change.retiring:
                self._changes.remove(change)
                self._answer(change.peer, self._outcome(change, lost))

    def _outcome(self, change: _Change, lost: list[str]) -> Done:
        if lost:
            return Done(False, f"{', '.join(sorted(lost))} could not be started; the server's output says why")
        return Done(True, f"{change.kind}={change.count}")
