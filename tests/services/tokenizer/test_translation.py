"""TokenBatch to TextBatch, without processes: any way of cutting the same tokens into rows is the same text."""

from __future__ import annotations

from array import array
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from quire.services.tokenizer.outbox import Outbox
from quire.services.tokenizer.preparation import Job, Preparation, Prepared
from quire.services.tokenizer.request import Request
from quire.services.tokenizer.token_ids import pack_ids, unpack_ids
from quire.services.tokenizer.tokenizer import TextTokenizer
from quire.services.tokenizer.translation import end_request, translate
from quire.services.tokenizer.validation import Limits
from quire.shared.messages import (
    Finished,
    Generate,
    RequestId,
    SamplingParams,
    TextParams,
    TextPrompt,
    TokenBatch,
    TokenLogprobs,
)

LIMITS = Limits(max_model_len=4096, vocab_size=2048)


def _request(tokenizer: TextTokenizer, request_id: int = 1, n: int = 1, min_tokens: int = 0, **text: Any) -> Request:
    sampling = SamplingParams(max_tokens=1000, min_tokens=min_tokens)
    generate = Generate(RequestId(request_id), TextPrompt("x"), n, sampling, TextParams(**text), 0, 0.0)
    job = Job(generate, LIMITS)
    (prepared,) = Preparation(tokenizer, None).prepare([job])
    assert isinstance(prepared, Prepared)
    request = Request(job, "engine-0", Outbox("frontend-0"))
    request.submitted(prepared)
    return request


def _row(request: Request, ids: list[int], end: Finished | None = None, **columns: Any) -> TokenBatch:
    finished = [] if end is None else [end]
    return TokenBatch([request.request_id], [0], [len(ids)], pack_ids(ids), finished=finished, **columns)


def _play(tokenizer: TextTokenizer, rows: list[list[int]], reason: str, **settings: Any) -> tuple[str, list[int], Any]:
    """(text, token ids, finish reason) that a client gets for these rows."""
    request = _request(tokenizer, **settings)
    text, ids = "", []
    for index, row in enumerate(rows):
        end = Finished(0, reason) if index == len(rows) - 1 else None
        translate(_row(request, row, end), {1: request}, tokenizer.texts)
        batch = request.outbox.take()
        if batch is None:
            break
        text += batch.texts[0]
        ids += unpack_ids(batch.token_ids)
        assert batch.counts == [len(batch.token_ids) // 4]
        if batch.finished:
            return text, ids, (batch.finished[0].reason, batch.finished[0].stop_reason)
    raise AssertionError("no end")


@settings(max_examples=300, deadline=None)
@given(
    ids=st.lists(st.sampled_from([0, 1, 2, 2046, *range(3, 300)]), min_size=1, max_size=24),
    cuts=st.lists(st.integers(0, 24), max_size=6),
    stops=st.lists(st.text("abe e1 \n", min_size=1, max_size=3), max_size=3),
    includes=st.booleans(),
    skips=st.booleans(),
    min_tokens=st.integers(0, 6),
    reason=st.sampled_from(["length", "stop"]),
)
def test_any_cut_of_the_tokens_into_rows_is_the_same_answer(
    demo: TextTokenizer,
    ids: list[int],
    cuts: list[int],
    stops: list[str],
    includes: bool,
    skips: bool,
    min_tokens: int,
    reason: str,
) -> None:
    params = {
        "stop": stops,
        "include_stop_str_in_output": includes,
        "skip_special_tokens": skips,
        "min_tokens": min_tokens,
    }
    one_by_one = _play(demo, [[token_id] for token_id in ids], reason, **params)
    edges = sorted({0, len(ids), *(cut % len(ids) for cut in cuts)})
    assert _play(demo, [ids[a:b] for a, b in zip(edges, edges[1:], strict=False)], reason, **params) == one_by_one
    assert _play(demo, [ids], reason, **params) == one_by_one
    if not stops:
        shown = ids[:-1] if reason == "stop" and not includes else ids
        assert one_by_one == (demo.decode(shown, skips), ids, (reason, None))


def test_a_step_with_a_stop_string_for_one_of_many_touches_no_other(demo: TextTokenizer) -> None:
    requests = {number: _request(demo, number, stop=["e"] if number == 2 else []) for number in (1, 2, 3)}
    outbox = requests[1].outbox
    for request in requests.values():
        request.outbox = outbox
    (ids,) = demo.encode_texts(["e"], add_special_tokens=False)
    batch = TokenBatch([1, 2, 3, 99], [0, 0, 0, 0], [1, 1, 1, 1], pack_ids(ids * 4))
    translation = translate(batch, requests, demo.texts)
    sent = outbox.take()
    assert sent is not None
    assert (sent.request_ids, sent.texts) == ([1, 2, 3], ["e", "", "e"])
    assert sent.finished == [Finished(1, "stop", "e")]
    assert [(abort.request_id, abort.choice) for abort in translation.aborts] == [(2, 0)]
    assert translation.ended == [requests[2]]


def test_an_end_by_the_engine_and_a_stop_string_in_one_row_is_one_end_without_an_abort(demo: TextTokenizer) -> None:
    request = _request(demo, stop=["e"])
    (ids,) = demo.encode_texts(["e"], add_special_tokens=False)
    translation = translate(_row(request, ids, Finished(0, "length")), {1: request}, demo.texts)
    sent = request.outbox.take()
    assert sent is not None and sent.finished == [Finished(0, "stop", "e")]
    assert translation.aborts == [] and translation.ended == [request]


def test_bytes_of_the_tokens_shown_with_logprobs_join_to_the_text(demo: TextTokenizer) -> None:
    request = _request(demo)
    (ids,) = demo.encode_texts(["naïve 😀"], add_special_tokens=False)
    ids = [*ids, 1, 2]  # a special token that is skipped, and the one that ends the choice
    zeros = array("f", [0.0] * len(ids)).tobytes()
    logprobs = TokenLogprobs(0, zeros, pack_ids([1] * len(ids)), pack_ids(ids), zeros)
    translate(_row(request, ids, Finished(0, "stop"), logprobs=[logprobs]), {1: request}, demo.texts)
    sent = request.outbox.take()
    assert sent is not None
    assert b"".join(entry.token for entry in sent.logprobs[0].tokens) == sent.texts[0].encode() == "naïve 😀".encode()
    assert [entry.token_id for entry in sent.logprobs[0].tokens] == ids
    assert sent.logprobs[0].top[-1][0].token == b"<|im_end|>"


def test_a_lost_request_ends_each_open_choice_once_with_what_was_held_back(demo: TextTokenizer) -> None:
    request = _request(demo, n=3, stop=["exit"])
    (ids,) = demo.encode_texts(["e"], add_special_tokens=False)
    batch = TokenBatch([1, 1], [0, 1], [1, 1], pack_ids(ids * 2), finished=[Finished(1, "length")])
    translate(batch, {1: request}, demo.texts)
    first = request.outbox.take()
    assert first is not None and first.texts == ["", "e"]
    end_request(request, "error", "lost")
    last = request.outbox.take()
    assert last is not None
    assert (last.choices, last.texts, last.counts) == ([0, 2], ["e", ""], [0, 0])
    assert [(end.row, end.reason, end.message) for end in last.finished] == [(0, "error", "lost"), (1, "error", "lost")]
    assert request.num_open == 0
