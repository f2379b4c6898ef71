"""How many of an answer's tokens were reasoning: between the tokens that begin and end it, those included.

Counted once, at a choice's end, from its ids: texts are cut anywhere, tokens are not. Knows no format.
"""

from __future__ import annotations

from array import array

from quire.shared.messages import ReasoningIds


def num_reasoning_tokens(output_ids: bytes, marks: ReasoningIds) -> int:
    """Of an answer that holds reasoning; 0 where its end takes several tokens, and so cannot be told."""
    ids, start = array("i", output_ids), array("i", marks.start)
    if not marks.ends:
        return 0
    if not start:
        return _behind_first(ids, marks.ends, 0)
    count = place = 0
    while (place := _find(ids, start, place)) < len(ids):
        end = _behind_first(ids, marks.ends, place)
        count += end - place
        place = end
    return count


def _behind_first(ids: array[int], wanted: list[int], place: int) -> int:
    """The place behind the first of these tokens, from `place` on; the end where there is none."""
    return min([_index(ids, token, place) + 1 for token in wanted] + [len(ids)])


def _find(ids: array[int], run: array[int], place: int) -> int:
    """Where these tokens follow one another, from `place` on; the end where they do not."""
    while (place := _index(ids, run[0], place)) < len(ids):
        if ids[place : place + len(run)] == run:
            return place
        place += 1
    return len(ids)


def _index(ids: array[int], token: int, place: int) -> int:
    try:
        return ids.index(token, place)
    except ValueError:
        return len(ids)
