"""Stop strings across deltas, with the least text held back.

On the way up, behind the detokenizer. One automaton a request (Aho and Corasick, 1975), shared by
its choices; its state after each character says how much of the tail may still begin a stop string.
Knows no token ids.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """An automaton over the stop strings of a request; immutable once built."""

    __slots__ = ("depths", "fails", "first_chars", "gotos", "matches", "stops")

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = [stop for stop in dict.fromkeys(stops) if stop]
        self.first_chars = frozenset(stop[0] for stop in self.stops)
        self.gotos: list[dict[str, int]] = [{}]
        self.fails = [0]
        self.depths = [0]
        """Length of the longest prefix of a stop string that the text read so far ends with."""
        self.matches: list[str | None] = [None]
        """The longest stop string that the text read so far ends with."""
        for stop in self.stops:
            self._add(stop)
        self._link()

    def _add(self, stop: str) -> None:
        node = 0
        for char in stop:
            following = self.gotos[node].get(char)
            if following is None:
                following = self.gotos[node][char] = len(self.gotos)
                self.gotos.append({})
                self.fails.append(0)
                self.depths.append(self.depths[node] + 1)
                self.matches.append(None)
            node = following
        self.matches[node] = stop

    def _link(self) -> None:
        order = list(self.gotos[0].values())
        for node in order:  # grows while it is walked: breadth first
            for char, following in self.gotos[node].items():
                fail = self.fails[node]
                while fail and char not in self.gotos[fail]:
                    fail = self.fails[fail]
                self.fails[following] = self.gotos[fail].get(char, 0)
                order.append(following)
            if self.matches[node] is None:
                self.matches[node] = self.matches[self.fails[node]]


class StopMatcher:
    """Finds the stop string that is complete first; of two that end together, the longer.

    That rule depends on the text alone, so every way of cutting it into deltas gives the same.
    """

    __slots__ = ("_automaton", "_first_chars", "_held", "_includes_stop", "_node", "found")

    def __init__(self, automaton: StopStrings, includes_stop: bool) -> None:
        self._automaton = automaton
        self._first_chars = automaton.first_chars
        self._includes_stop = includes_stop
        self._node = 0
        self._held = ""
        self.found: str | None = None

    def feed(self, delta: str, is_armed: bool = True) -> str:
        """The text that may go out now. Unarmed, a stop string completed in `delta` is plain text."""
        if not self._node and self._first_chars.isdisjoint(delta):
            return delta
        automaton = self._automaton
        gotos, fails, matches = automaton.gotos, automaton.fails, automaton.matches
        node = self._node
        text = self._held + delta
        position = len(self._held)
        for char in delta:
            position += 1
            while char not in gotos[node] and node:
                node = fails[node]
            node = gotos[node].get(char, 0)
            stop = matches[node]
            if stop is None:
                continue
            if is_armed:
                self.found = stop
                self._node, self._held = 0, ""
                return text[: position if self._includes_stop else position - len(stop)]
            if not gotos[node]:
                node = fails[node]
        self._node = node
        kept = len(text) - automaton.depths[node]
        self._held = text[kept:]
        return text[:kept]

    def flush(self) -> str:
        """What is held back, at the end of a text without a stop string."""
        held, self._held, self._node = self._held, "", 0
        return held
