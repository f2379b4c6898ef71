"""The history checker finds what it is there to find."""

from __future__ import annotations

import json

import pytest
from history import content, judge, violations

from bench.response import DONE, Answer


def chunk(text: str = "", end: str | None = None, index: int = 0, name: str = "chatcmpl-1", **fields) -> bytes:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": end}
    return json.dumps({"id": name, "choices": [choice], **fields}).encode()


def stream(*frames: bytes, is_done: bool = True, error: str = "") -> Answer:
    return Answer(0.0, status=200, frames=list(frames), is_done=is_done, error=error)


BODY = b'{"stream": true}'


def whole(name: str = "chatcmpl-1", text: str = "ab") -> Answer:
    return stream(chunk(text[0], name=name), chunk(text[1:], "stop", name=name), DONE)


def test_a_whole_answer_is_the_same():
    verdict = judge([BODY], [whole()], [content(whole("chatcmpl-9"))])
    assert (verdict.num_same, verdict.num_broken, verdict.num_different) == (1, 0, 0)


def test_how_a_text_is_cut_makes_no_difference():
    pieces = stream(chunk("a"), chunk("b"), chunk("", "stop"), DONE)
    assert content(pieces) == content(whole())


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (stream(chunk("a", "stop"), chunk("b"), DONE), "went on after its end"),
        (stream(chunk("a", "stop"), chunk("", "stop"), DONE), "went on after its end"),
        (stream(chunk("a"), DONE), "these have ended: []"),
        (stream(chunk("a", "stop")), "[DONE]"),
        (stream(chunk("a", "stop"), DONE, DONE), "[DONE]"),
        (stream(chunk("a"), chunk("b", "stop", name="chatcmpl-2"), DONE), "carry the ids"),
        (stream(chunk("a", "stop"), chunk("b", "stop", index=1), DONE), "these have ended: [0, 1]"),
    ],
)
def test_what_is_against_the_rules_is_found(answer: Answer, what: str):
    assert any(what in violation for violation in violations(answer, 1)), violations(answer, 1)


def test_another_text_is_different_and_an_error_is_broken():
    expected = [content(whole())] * 3
    broken = stream(chunk("a"), is_done=False, error="the stream ended without [DONE]")
    verdict = judge([BODY] * 3, [whole(text="ax"), broken, whole("chatcmpl-3")], expected)
    assert (verdict.num_same, verdict.num_broken, verdict.num_different) == (1, 1, 1)


def test_two_answers_of_one_id_are_found():
    verdict = judge([BODY] * 2, [whole(), whole()], [content(whole())] * 2)
    assert verdict.num_different == 1 and "that of request 0" in verdict.remarks[0]


def test_a_plain_answer_is_judged_like_a_stream():
    body = {"id": "x", "choices": [{"index": 0, "message": {"content": "ab"}, "finish_reason": "stop"}]}
    plain = Answer(0.0, status=200, last_frame=json.dumps(body).encode(), is_done=True)
    assert content(plain) == content(whole()) and violations(plain, 1) == []
