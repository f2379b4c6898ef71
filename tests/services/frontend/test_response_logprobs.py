"""Which tokens of an answer are its text's: those behind the reasoning, however the deltas are cut."""

from __future__ import annotations

import pytest

from quire.services.frontend.mailbox import Delta
from quire.services.frontend.response_logprobs import TextLogprobs, in_event
from quire.shared.messages import LogprobEntry

TOKENS = [(1, "<think>"), (2, "hm"), (9, "</think>"), (3, "We"), (9, "</think>"), (4, "ll")]


def delta(tokens: list[tuple[int, str]]) -> Delta:
    entries = [LogprobEntry(token_id, text.encode(), -0.5) for token_id, text in tokens]
    return Delta(0, tokens=entries, top=[[entry, entry] for entry in entries])


@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_reasoning_is_left_out_up_to_its_first_end(size: int) -> None:
    logprobs = TextLogprobs(1, [9])
    taken = []
    for start in range(0, len(TOKENS), size):
        logprobs.feed(delta(TOKENS[start : start + size]))
        if start + size > 3:  # text has come
            taken += logprobs.take(has_reasoned=True)
    assert [one["token"] for one in taken] == ["We", "</think>", "ll"] and taken == logprobs.all
    assert all(len(one["top_logprobs"]) == 1 for one in taken)
    assert in_event(taken)[0] == {"token": "We", "logprob": -0.5, "top_logprobs": [{"token": "We", "logprob": -0.5}]}


def test_without_reasoning_every_token_counts_and_unasked_none() -> None:
    for num_top, wanted in ((0, 6), (None, 0)):
        logprobs = TextLogprobs(num_top, [9])
        logprobs.feed(delta(TOKENS))
        assert len(logprobs.take(has_reasoned=False)) == wanted
