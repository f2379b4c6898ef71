"""Request ids: never twice, 63 bits, and readable back from what clients see."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quire.shared.errors import KINDS, ApiError, echo, refused
from quire.shared.messages import RequestId
from quire.shared.request_ids import RequestIds, chat_id, completion_id, parse


def test_ids_never_repeat_within_and_across_sources() -> None:
    first, second = RequestIds(), RequestIds()
    ids = {source.next() for _ in range(1000) for source in (first, second)}
    assert len(ids) == 2000
    assert all(0 <= one < 1 << 63 for one in ids)


def test_a_used_up_counter_begins_a_new_random_part() -> None:
    source = RequestIds()
    first = source.next()
    source._counter = (1 << 24) - 1
    last, after = source.next(), source.next()
    assert last >> 24 == first >> 24
    assert after >> 24 != first >> 24
    assert after & 0xFFFFFF == 0


@given(st.integers(0, (1 << 63) - 1))
def test_written_ids_are_read_back(number: int) -> None:
    assert parse(chat_id(RequestId(number))) == number
    assert parse(completion_id(RequestId(number))) == number


@given(st.text())
def test_other_text_is_no_id_or_a_valid_one(text: str) -> None:
    found = parse(text)
    assert found is None or 0 <= found < 1 << 63


def test_every_error_of_the_table_survives_the_way_up() -> None:
    for kind in KINDS.values():
        error = ApiError.from_refused(refused(RequestId(1), kind, "Sentence.", "n", 3.0))
        assert (error.status, error.code, error.type) == (kind.status, kind.code, kind.type)
        assert (error.param, error.retry_after_seconds) == ("n", 3.0)


def test_echoed_input_is_short_and_printable() -> None:
    assert echo("a\nb\0c") == "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"
    assert len(echo("x" * 10_000)) == 203
    assert echo(5) == "5"
