"""Stop strings: the same result for every way of cutting the text."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quire.services.tokenizer.stop_strings import StopMatcher, StopStrings


def _reference(text: str, stops: list[str], includes: bool) -> tuple[str, str | None]:
    """The stop string whose end comes first; of those that end together, the longest. By search."""
    best: tuple[int, int, str] | None = None
    for stop in stops:
        start = text.find(stop)
        if start >= 0 and (best is None or (start + len(stop), start) < best[:2]):
            best = (start + len(stop), start, stop)
    if best is None:
        return text, None
    return text[: best[0] if includes else best[1]], best[2]


def _cut(text: str, cuts: list[int]) -> list[str]:
    edges = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    return [text[a:b] for a, b in zip(edges, edges[1:], strict=False)]


def _run(deltas: list[str], stops: list[str], includes: bool) -> tuple[str, str | None]:
    matcher = StopMatcher(StopStrings(stops), includes)
    out = ""
    for delta in deltas:
        out += matcher.feed(delta)
        if matcher.found is not None:
            return out, matcher.found
    return out + matcher.flush(), None


_texts = st.text("abc\n", max_size=30)
_stops = st.lists(st.text("abc\n", min_size=1, max_size=5), min_size=1, max_size=4)


@settings(max_examples=1000, deadline=None)
@given(text=_texts, stops=_stops, includes=st.booleans(), cuts=st.lists(st.integers(0, 30), max_size=8))
def test_any_cut_gives_what_a_search_of_the_whole_gives(
    text: str, stops: list[str], includes: bool, cuts: list[int]
) -> None:
    expected = _reference(text, stops, includes)
    assert _run([text] if text else [], stops, includes) == expected
    assert _run(list(text), stops, includes) == expected
    assert _run(_cut(text, cuts), stops, includes) == expected


@settings(max_examples=500, deadline=None)
@given(text=_texts, stops=_stops)
def test_no_more_is_held_back_than_may_begin_a_stop_string(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(StopStrings(stops), includes_stop=False)
    out = ""
    for end, char in enumerate(text, 1):
        out += matcher.feed(char)
        if matcher.found is not None:
            return
        held = text[len(out) : end]
        longest = max((k for stop in stops for k in range(len(stop)) if text[:end].endswith(stop[:k])), default=0)
        assert len(held) == longest


@settings(max_examples=500, deadline=None)
@given(before=_texts, after=_texts, stops=_stops, cuts=st.lists(st.integers(0, 30), max_size=4))
def test_unarmed_text_stops_nothing_and_any_cut_of_it_is_alike(
    before: str, after: str, stops: list[str], cuts: list[int]
) -> None:
    def run(deltas: list[str]) -> tuple[str, str | None]:
        matcher = StopMatcher(StopStrings(stops), includes_stop=True)
        out = ""
        for delta in deltas:
            out += matcher.feed(delta, is_armed=False)
            assert matcher.found is None
        for char in after:
            out += matcher.feed(char)
            if matcher.found is not None:
                return out, matcher.found
        return out + matcher.flush(), None

    whole = run([before])
    assert run(list(before)) == whole
    assert run(_cut(before, cuts)) == whole
    text = before + after
    ends = [end for end in range(len(before) + 1, len(text) + 1) if any(text[:end].endswith(stop) for stop in stops)]
    assert whole[0] == (text[: ends[0]] if ends else text)


def test_a_stop_string_split_over_deltas_never_leaks() -> None:
    matcher = StopMatcher(StopStrings(["\nUser:"]), includes_stop=False)
    assert matcher.feed("Hello\n") == "Hello"
    assert matcher.feed("Use") == ""
    assert matcher.feed("ful") == "\nUseful"
    assert matcher.feed("\nUser: x") == ""
    assert matcher.found == "\nUser:"


def test_of_stop_strings_that_end_together_the_longer_is_named() -> None:
    assert _run(["xabc"], ["bc", "abc", "c"], False) == ("x", "abc")


def test_many_long_stop_strings_of_one_character_are_no_trouble() -> None:
    stops = ["a" * n + "b" for n in range(200, 216)]
    assert _run(["a"] * 5000 + ["b"], stops, False) == ("a" * (5000 - 215), "a" * 215 + "b")
