"""Policy: in what order choices are served, and which one gives way.

Precedence is a sort key made once per choice; the waiting queue and the running list are both kept
in it. A feature that changes who goes first belongs here, not in the scheduler's loop.
"""

from __future__ import annotations

from bisect import bisect_left, insort

from .request import Choice, Request

MAX_PREEMPTIONS = 3
"""After so many a choice comes back only with every block it can ever need, and is not preempted again."""
MAX_SKIPS = 64
"""How many younger choices may pass one that does not fit before it closes the way."""
LOOK_AHEAD = 16
"""How many waiting choices are tried in one step beyond the first that does not fit."""


def precedence(request: Request, index: int, schedule_policy: str) -> tuple[float, ...]:
    """Smaller goes first. fcfs: by arrival; priority: by the client's priority (lower first), then arrival."""
    submit = request.submit
    order = (submit.arrival, submit.request_id, index)
    return order if schedule_policy == "fcfs" else (submit.priority, *order)


class PrecedenceList(list[Choice]):
    """Choices in order of precedence; changed by `add` and `remove` alone. A list, since every step walks all of it."""

    def add(self, choice: Choice) -> None:
        insort(self, choice, key=_key)

    def remove(self, choice: Choice) -> None:
        """Raises ValueError when it is not in the list."""
        index = bisect_left(self, choice.key, key=_key)
        if index == len(self) or self[index] is not choice:
            raise ValueError("the choice is not in the list")
        del self[index]

    def victim(self, below: Choice) -> Choice | None:
        """The last choice after `below` that may still be preempted: the youngest, or of the least priority."""
        for choice in reversed(self):
            if choice is below:
                return None
            if choice.num_preemptions < MAX_PREEMPTIONS:
                return choice
        return None


def _key(choice: Choice) -> tuple[float, ...]:
    return choice.key
