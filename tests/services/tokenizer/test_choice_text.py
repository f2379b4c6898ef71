"""Ids to text with stop strings, in any cut: what clients see is a search of the whole text."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quire.services.tokenizer.choice_text import StoppableText, replay
from quire.services.tokenizer.detokenizer import ByteDetokenizer
from quire.services.tokenizer.stop_strings import StopStrings
from quire.services.tokenizer.token_bytes import TokenTexts

TOKENS = ["a", "b", "ab", "\n", "é", "日", "😀", "<|end|>", "x" * 5]
PIECES = sorted({*(token.encode() for token in TOKENS), b"\xf0\x9f", b"\x98\x80", b"\xe6\x97", b"\xa5", b"\xff"})
TABLE = TokenTexts.make(PIECES, [])
_ids = st.lists(st.integers(0, len(PIECES) - 1), max_size=25)
_stops = st.lists(st.text("ab\né日😀<x", min_size=1, max_size=4), min_size=1, max_size=3)


def reference(ids: list[int], stops: list[str]) -> str:
    """Decode all, then search: the stop whose end comes first, of those the longest."""
    text = b"".join(PIECES[token_id] for token_id in ids).decode("utf-8", "replace")
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    return text[: min(ends)[1]] if ends else text


def fresh(stops: list[str]) -> StoppableText:
    return StoppableText(ByteDetokenizer(TABLE.texts, TABLE.token_bytes), StopStrings(stops), False, 0)


def run(ids: list[int], stops: list[str], cuts: list[int]) -> str:
    """Token by token; at each cut the choice is lost, and a fresh one resumes after the characters sent so far."""
    choice, text = fresh(stops), ""
    for position, token_id in enumerate(ids):
        if position in cuts:
            choice = fresh(stops)
            assert replay(choice, ids[:position], len(text)) == ""
        text += choice.push(token_id)
        if choice.found is not None:
            return text
    return text + choice.flush()


@settings(max_examples=500, deadline=None)
@given(ids=_ids, stops=_stops, cuts=st.lists(st.integers(0, 25), max_size=6))
def test_any_cut_of_the_ids_gives_the_text_of_a_search_of_the_whole(
    ids: list[int], stops: list[str], cuts: list[int]
) -> None:
    assert run(ids, stops, cuts) == reference(ids, stops)
