"""Requests with a grammar between their Submit and the scheduler: held until their grammar is compiled.

Comes before Accepted, so that a grammar that cannot be followed is still refused. What happens to a
request meanwhile (aborted, its tokenizer gone) is noted here. Knows no scheduler.
"""

from __future__ import annotations

from collections import deque

from msgspec import Struct

from quire.shared.link import Waker
from quire.shared.messages import Abort, Submit

from .grammars import GrammarError, Grammars, Guides


class Held(Struct):
    """One request that waits."""

    peer: str
    submit: Submit
    aborts: list[Abort] = []
    """Of single choices, to be carried out once it is in."""
    is_dropped: bool = False


class Constrained:
    """`take` gives each held request back, in order, once."""

    def __init__(self) -> None:
        self.grammars = Grammars()
        self.waker = Waker()
        """To be waited for: wakes the loop when `take` has something."""
        self._held: dict[tuple[str, int], Held] = {}
        self._done: deque[tuple[Held, Guides | GrammarError]] = deque()

    @property
    def num_choices(self) -> int:
        """Of all that are held."""
        return sum(held.submit.n for held in self._held.values())

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._held

    def hold(self, peer: str, submit: Submit) -> None:
        held = self._held[peer, submit.request_id] = Held(peer, submit)

        def on_done(outcome: Guides | GrammarError) -> None:
            self._done.append((held, outcome))
            self.waker.wake()

        self.grammars.prepare(submit, on_done)

    def take(self) -> list[tuple[Held, Guides | GrammarError]]:
        """Those that are prepared, or refused, since the last call."""
        self.waker.clear()
        taken = []
        while self._done:
            held, outcome = self._done.popleft()
            if not held.is_dropped:
                del self._held[held.peer, held.submit.request_id]
                taken.append((held, outcome))
        return taken

    def abort(self, peer: str, abort: Abort) -> bool:
        """Note it; False when the request is not held."""
        held = self._held.get((peer, abort.request_id))
        if held is None:
            return False
        if abort.choice is not None:
            held.aborts.append(abort)
        else:
            self._drop(held)
        return True

    def drop_peer(self, peer: str) -> None:
        for held in [held for held in self._held.values() if held.peer == peer]:
            self._drop(held)

    def _drop(self, held: Held) -> None:
        held.is_dropped = True
        del self._held[held.peer, held.submit.request_id]
