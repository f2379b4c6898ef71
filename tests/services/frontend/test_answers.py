"""Streamed equals plain, for any deltas, however they were merged on the way."""

from __future__ import annotations

import asyncio
import copy
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.services.frontend.answers import Asked, Tally, scored
from quire.services.frontend.chat import ChatAnswer
from quire.services.frontend.completions import CompletionAnswer
from quire.services.frontend.mailbox import Delta, Mailbox
from quire.services.frontend.stream_interval import Intervals
from quire.shared.errors import INTERNAL_ERROR, ApiError
from quire.shared.messages import Accepted, LogprobEntry

BARE = Asked(
    id="chatcmpl-1", model="dé\"mo", created=7, fingerprint="fp_1", num_prompts=1, n=1, num_drawn=1,
    has_usage=False, has_continuous_usage=False, logprobs=None, has_prompt_logprobs=False, is_echoed=False,
    is_scoring=False, writes_token_ids=False, returns_token_ids=False,
)  # fmt: skip


def asked(**fields: Any) -> Asked:
    return msgspec.structs.replace(BARE, **{"num_drawn": fields.get("n", 1), **fields})


def entry(token: bytes) -> LogprobEntry:
    return LogprobEntry(len(token), token, -0.5, 1)


def events(stream: bytes) -> list[dict[str, Any]]:
    blocks = stream.decode().split("\n\n")
    assert blocks.pop() == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks)
    return [json.loads(block[6:]) for block in blocks]


def streamed(kind: type, what: Asked, accepted: list[Accepted], deltas: list[Delta]) -> list[dict[str, Any]]:
    tally = Tally(what, accepted)
    answer = kind(what, accepted, tally)
    written = answer.opening()
    for delta in deltas:
        if what.is_scoring:
            delta = scored(delta)
        tally.add(delta, what.n)
        written += answer.chunks(delta)
    assert tally.num_open == 0
    return events(written + answer.closing())


def whole(kind: type, what: Asked, accepted: list[Accepted], deltas: list[Delta]) -> dict[str, Any]:
    tally = Tally(what, accepted)
    answer = kind(what, accepted, tally)
    choices: dict[int, Delta] = {}
    for delta in copy.deepcopy(deltas):
        if what.is_scoring:
            delta = scored(delta)
        tally.add(delta, what.n)
        if delta.index in choices:
            choices[delta.index].merge(delta)
        else:
            choices[delta.index] = delta
    return json.loads(answer.whole([choices[index] for index in sorted(choices)]))


class Scripted(msgspec.Struct):
    asked: Asked
    accepted: list[Accepted]
    deltas: list[Delta]


@st.composite
def scripts(draw: st.DrawFn, is_chat: bool) -> Scripted:
    num_prompts = 1 if is_chat else draw(st.integers(1, 3))
    what = asked(
        n=draw(st.integers(1, 3)),
        num_prompts=num_prompts,
        logprobs=draw(st.sampled_from([None, 0, 2])),
        returns_token_ids=draw(st.booleans()),
        has_usage=draw(st.booleans()),
        has_continuous_usage=draw(st.booleans()),
        is_echoed=not is_chat and draw(st.booleans()),
        is_scoring=False,
    )
    what.has_usage = what.has_usage or what.has_continuous_usage
    what.is_scoring = what.is_echoed and draw(st.booleans())
    text = st.text(st.characters(exclude_categories=("Cs",)), max_size=4)
    lanes: list[list[Delta]] = []
    for index in range(what.num_choices):
        lane = []
        for piece in draw(st.lists(text, min_size=1, max_size=4)):
            delta = Delta(index, piece, 1)
            if what.logprobs is not None:
                delta.tokens, delta.top = [entry(piece.encode())], [[entry(b"t")] * what.logprobs]
            if what.returns_token_ids:
                delta.token_ids = b"\5\0\0\0"
            lane.append(delta)
        lane[0].num_cached_tokens = 2
        if index % what.n == 0 and what.is_echoed and what.logprobs is not None:
            lane[0].prompt_tokens, lane[0].prompt_top = [entry(b" b")], [[entry(b"t")] * what.logprobs]
        lane[-1].finish_reason = draw(st.sampled_from(["stop", "length"]))
        lane[-1].stop_reason = draw(st.sampled_from([None, "END", 7]))
        lanes.append(lane)
    order = draw(st.permutations([index for index, lane in enumerate(lanes) for _ in lane]))
    accepted = [Accepted(index, 2, b"\1\0\0\0\2\0\0\0", "a b") for index in range(num_prompts)]  # type: ignore[arg-type]
    return Scripted(what, accepted, [lanes[index].pop(0) for index in order])


def joined_logprobs(parts: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            found[key] = found.get(key, []) + value if isinstance(value, list) else value
    return found


def check_agreement(kind: type, script: Scripted) -> None:
    what = script.asked
    chunks = streamed(kind, what, script.accepted, copy.deepcopy(script.deltas))
    plain = whole(kind, what, script.accepted, script.deltas)
    assert {(chunk["id"], chunk["created"], chunk["model"]) for chunk in chunks} == {("chatcmpl-1", 7, 'dé"mo')}
    last_usage = [chunk for chunk in chunks if not chunk["choices"]]
    assert len(last_usage) == what.has_usage
    if what.has_usage:
        for key in ("prompt_tokens", "completion_tokens", "total_tokens", "prompt_tokens_details"):
            assert last_usage[0]["usage"][key] == plain["usage"][key]
        assert all("usage" in chunk for chunk in chunks)
        assert what.has_continuous_usage or all(chunk["usage"] is None for chunk in chunks if chunk["choices"])
    else:
        assert not any("usage" in chunk for chunk in chunks)
    assert plain["usage"]["prompt_tokens"] == 2 * what.num_prompts
    assert plain["usage"]["completion_tokens"] == (0 if what.is_scoring else len(script.deltas))
    for choice in plain["choices"]:
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == choice["index"]]
        finishes = [c for c in own if c["finish_reason"] is not None]
        assert finishes == [own[-1]]
        assert (own[-1]["finish_reason"], own[-1]["stop_reason"]) == (choice["finish_reason"], choice["stop_reason"])
        is_chat = "message" in choice
        if is_chat:
            assert own[0]["delta"] == {"role": "assistant", "content": ""}
            assert all("role" not in c["delta"] for c in own[1:])
            assert "".join(c["delta"].get("content", "") for c in own) == choice["message"]["content"]
            assert own[-1]["delta"] == {}
        else:
            assert "".join(c["text"] for c in own) == choice["text"]
        logprobs = [c["logprobs"] for c in own if c["logprobs"] is not None]
        assert joined_logprobs(logprobs) == joined_logprobs([choice["logprobs"]] if choice["logprobs"] else [])
        if what.returns_token_ids:
            assert [i for c in own for i in c.get("token_ids") or []] == choice["token_ids"]
    assert plain["usage"]["prompt_tokens_details"]["cached_tokens"] == 2 * what.num_prompts


@settings(max_examples=200, deadline=None)
@given(scripts(is_chat=True))
def test_streamed_chat_equals_plain(script: Scripted) -> None:
    check_agreement(ChatAnswer, script)


@settings(max_examples=300, deadline=None)
@given(scripts(is_chat=False))
def test_streamed_completion_equals_plain(script: Scripted) -> None:
    check_agreement(CompletionAnswer, script)


@settings(max_examples=200, deadline=None)
@given(scripts(is_chat=False), st.data())
def test_a_slow_reader_gets_the_same_answer(script: Scripted, data: st.DataObject) -> None:
    async def through_a_mailbox() -> list[Delta]:
        box = Mailbox(script.asked.num_prompts, 1, asyncio.get_running_loop())
        taken: list[Delta] = []
        for delta in copy.deepcopy(script.deltas):
            box.deliver(delta)
            if data.draw(st.integers(0, 9)) == 0:
                taken += await box.take()
        if box.num_pending_bytes or len(taken) < len(script.deltas):
            box.wake()
            with_rest = box._pending
            taken += await box.take() if with_rest else []
        return taken

    merged = asyncio.run(through_a_mailbox())
    kind = CompletionAnswer
    assert whole(kind, script.asked, script.accepted, merged) == whole(
        kind, script.asked, script.accepted, script.deltas
    )


def test_text_is_escaped_exactly_once() -> None:
    text = '\u2028\0"\\\n\r\x7f</script>😀é'
    (chunk, finish) = streamed(ChatAnswer, BARE, [Accepted(1, 1)], [Delta(0, text, 1), Delta(0, finish_reason="stop")])[
        1:
    ]  # type: ignore[arg-type]
    assert chunk["choices"][0]["delta"] == {"content": text}
    assert finish["choices"][0]["finish_reason"] == "stop"


def test_minus_infinity_is_written_as_the_lowest_number() -> None:
    delta = Delta(0, "x", 1, tokens=[LogprobEntry(1, b"x", float("-inf"))], top=[[]], finish_reason="stop")
    (choice,) = whole(ChatAnswer, asked(logprobs=0), [Accepted(1, 1)], [delta])["choices"]  # type: ignore[arg-type]
    assert choice["logprobs"]["content"][0]["logprob"] == -9999.0


def test_bytes_of_half_characters_are_kept() -> None:
    halves = [LogprobEntry(1, b"\xf0\x9f", -1.0), LogprobEntry(2, b"\x98\x80", -1.0)]
    delta = Delta(0, "😀", 2, tokens=halves, top=[[], []], finish_reason="stop")
    (choice,) = whole(ChatAnswer, asked(logprobs=0), [Accepted(1, 1)], [delta])["choices"]  # type: ignore[arg-type]
    assert bytes(b for item in choice["logprobs"]["content"] for b in item["bytes"]).decode() == "😀"
    (choice,) = whole(CompletionAnswer, asked(logprobs=1), [Accepted(1, 1)], [delta])["choices"]  # type: ignore[arg-type]
    assert choice["logprobs"]["text_offset"] == [0, 1]
    assert choice["logprobs"]["tokens"] == ["bytes:\\xf0\\x9f", "bytes:\\x98\\x80"]


@pytest.mark.parametrize("writes_ids", [False, True])
def test_tokens_can_be_written_as_ids(writes_ids: bool) -> None:
    delta = Delta(
        0, "x", 1, tokens=[LogprobEntry(5, b"x", -1.0)], top=[[LogprobEntry(6, b"y", -2.0)]], finish_reason="stop"
    )
    what = asked(logprobs=1, writes_token_ids=writes_ids)
    (choice,) = whole(CompletionAnswer, what, [Accepted(1, 1)], [delta])["choices"]  # type: ignore[arg-type]
    assert choice["logprobs"]["tokens"] == (["token_id:5"] if writes_ids else ["x"])
    assert set(choice["logprobs"]["top_logprobs"][0]) == ({"token_id:5", "token_id:6"} if writes_ids else {"x", "y"})


def test_openings_wait_for_the_logprobs_of_the_prompt() -> None:
    """A choice whose first token comes before its prompt's logprobs is held until they are there."""
    what = asked(n=2, logprobs=0, is_echoed=True)
    first = Delta(0, "x", 1, tokens=[entry(b"x")], top=[[]], prompt_tokens=[entry(b" b")], prompt_top=[[]])
    first.finish_reason = "stop"
    early = Delta(1, "y", 1, tokens=[entry(b"y")], top=[[]], finish_reason="stop")
    chunks = streamed(CompletionAnswer, what, [Accepted(1, 2, b"", "a b")], [early, first])  # type: ignore[arg-type]
    own = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == 1]
    assert own[0]["text"] == "a b"
    assert own[0]["logprobs"]["tokens"] == ["a", " b"]
    assert own[-1]["finish_reason"] == "stop"


def interval(size: int, deltas: list[Delta]) -> list[str]:
    """The texts of the chunks that come of these deltas."""
    what = asked(n=2)
    answer = Intervals(ChatAnswer(what, [Accepted(1, 1)], Tally(what, [])), size)
    return [
        event["choices"][0]["delta"].get("content", "end") for delta in deltas for event in events(answer.chunks(delta))
    ]


def test_chunks_of_an_interval_hold_that_many_tokens_but_the_first_and_the_last() -> None:
    letters = [Delta(0, letter, 1) for letter in "abcdefg"]
    assert interval(3, letters) == ["a", "bcd", "efg"]
    ending = Delta(0, "h", 1, finish_reason="stop")
    assert interval(3, [Delta(0, letter, 1) for letter in "abcdef"] + [ending]) == ["a", "bcd", "efh", "end"]


def test_choices_keep_intervals_of_their_own_and_a_failure_loses_nothing() -> None:
    deltas = [Delta(0, "a", 1), Delta(1, "A", 1), Delta(0, "b", 1), Delta(1, "B", 1), Delta(0, "c", 1)]
    assert interval(2, deltas) == ["a", "A", "bc"]
    what = asked()
    answer = Intervals(ChatAnswer(what, [Accepted(1, 1)], Tally(what, [])), 9)
    answer.chunks(Delta(0, "a", 1))
    answer.chunks(Delta(0, "b", 1))
    assert b'"content":"b"' in answer.failed(ApiError(INTERNAL_ERROR, "It broke."))
