"""Services that are lost as one: the ranks of a tensor-parallel group.

When one is lost the others are killed at once, since they may wait for it in the middle of a step, and what is
decided for the first holds for all. None is started again before all have ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .child import Child
from .crash_policy import Restart, StayDown

if TYPE_CHECKING:
    from .topology import ServiceSpec


class Groups:
    """Of the supervisor's `children`."""

    def __init__(self, children: Mapping[str, Child]) -> None:
        self._children = children
        self._fates: dict[int, Restart | StayDown] = {}
        """By pid, of those that are being killed with another."""

    def fall(self, lost: Child, fate: Restart | StayDown) -> None:
        """One is lost: kill the rest of its group. Their ends are no crashes of their own."""
        for child in self._rest_of(lost.spec):
            if child.name != lost.name:
                self._fates[child.pid] = fate
                child.kill_as_lost()

    def fate(self, child: Child) -> Restart | StayDown | None:
        """What was decided for an ended child with its group; None: it was not killed with it."""
        return self._fates.pop(child.pid, None)

    def is_falling(self, spec: ServiceSpec) -> bool:
        """Whether another of its group is still to end before it may be started."""
        return any(child.pid in self._fates for child in self._rest_of(spec))

    def _rest_of(self, spec: ServiceSpec) -> list[Child]:
        return [child for child in self._children.values() if spec.group and child.spec.group == spec.group]
