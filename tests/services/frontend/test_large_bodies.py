"""Large bodies: parsed on a thread and piece by piece, to the same result as small ones."""

from __future__ import annotations

import array
import asyncio
import json
import threading
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.services.frontend import id_lists
from quire.services.frontend.body_parsing import BodyParser
from quire.services.frontend.bounds import MAX_ID
from quire.services.frontend.completion_protocol import parse_completion
from quire.services.frontend.id_lists import packed_ids
from quire.shared.errors import ApiError
from quire.shared.messages import IdsPrompt


def many(count: int) -> list[int]:
    return [(number * 7919) % 100_000 for number in range(count)]


@pytest.mark.parametrize("separator", [",", ", ", " ,\n\t"])
def test_a_long_list_of_ids_is_the_same_ids(separator: str) -> None:
    ids = many(60_000)
    body = f'{{"prompt": [ {separator.join(map(str, ids))} ]}}'.encode()
    _, (prompt,) = parse_completion(body)
    assert isinstance(prompt, IdsPrompt)
    assert array.array("i", prompt.token_ids).tolist() == ids


@settings(deadline=None)
@given(st.lists(st.integers(0, MAX_ID), min_size=1, max_size=60), st.integers(1, 40))
def test_however_it_is_cut_the_ids_are_the_same(ids: list[int], piece_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(id_lists, "_PIECE_BYTES", piece_bytes)
        assert array.array("i", packed_ids(json.dumps(ids).encode(), list[int])).tolist() == ids


@pytest.mark.parametrize("wrong", [-1, MAX_ID + 1, 2**70, 1.5, "a", None, [1], [1, 2, 3], {"a": 1}, True])
@pytest.mark.parametrize("position", [0, 30_000, 59_999])
def test_one_wrong_id_anywhere_is_a_400(wrong: Any, position: int) -> None:
    ids: list[Any] = many(60_000)
    ids[position] = wrong
    with pytest.raises(ApiError) as refused:
        parse_completion(json.dumps({"prompt": ids}).encode())
    assert (refused.value.status, refused.value.param) == (400, "prompt") or refused.value.param.startswith("prompt[")


def test_too_many_ids_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(id_lists, "MAX_PROMPT_IDS", 50_000)
    with pytest.raises(ApiError, match="50000"):
        packed_ids(json.dumps(many(60_000)).encode(), list[int])


def test_only_large_bodies_leave_the_event_loop() -> None:
    async def where(size: int) -> str:
        parser = BodyParser(asyncio.get_running_loop())
        try:
            return await parser.parse(lambda body: threading.current_thread().name, b"x" * size)
        finally:
            parser.close()

    assert asyncio.run(where(1000)) == threading.current_thread().name
    assert asyncio.run(where(1 << 20)).startswith("parse-large")


def test_an_error_on_the_thread_is_the_answer(frontend: Any) -> None:
    response = frontend.client.post("/v1/completions", json={"prompt": "x" * (1 << 20), "temperature": 9})
    assert (response.status_code, response.json()["error"]["param"]) == (400, "temperature")
    ids = frontend.client.post("/v1/completions", json={"prompt": many(100_000)})
    assert ids.status_code == 200
