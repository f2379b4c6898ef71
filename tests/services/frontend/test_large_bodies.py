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
from quire.shared.messages import GenerationDefaults, IdsPrompt, ModelCard, TextPrompt


def many(count: int) -> list[int]:
    return [(number * 7919) % 100_000 for number in range(count)]


def card(max_model_len: int, max_chars_per_token: int | None = None) -> ModelCard:
    return ModelCard(["m"], "/m", 0, 100_000, max_model_len, 4, 4096, True, GenerationDefaults(),
                     max_chars_per_token=max_chars_per_token)  # fmt: skip


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


def test_a_list_that_cannot_fit_is_refused_before_it_is_decoded() -> None:
    ids = many(60_000)
    body = json.dumps({"prompt": ids}).encode()
    assert len(parse_completion(body, card(60_001))[1]) == 1
    for limit, wrong in ((60_000, ids), (1000, [*ids, "not an id"])):
        with pytest.raises(ApiError) as refused:
            parse_completion(json.dumps({"prompt": wrong}).encode(), card(limit))
        assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "prompt")
        assert f"maximum context length is {limit} tokens" in refused.value.message
    shortened = json.dumps({"prompt": ids, "truncate_prompt_tokens": 10}).encode()
    assert len(parse_completion(shortened, card(1000))[1]) == 1


@pytest.mark.parametrize("text", ["x" * 501, "x" * 100_000])
def test_a_text_that_cannot_fit_is_refused_where_it_arrives(text: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_completion(json.dumps({"prompt": text}).encode(), card(100, 5))
    assert refused.value.code == "context_length_exceeded" and f"at least {-(-len(text) // 5)}" in refused.value.message


@pytest.mark.parametrize(
    "text, fields, longest",
    [
        ("x" * 500, {}, 5),
        ("\\" * 400, {}, 5),
        ("é" * 400, {}, 5),
        ("x" * 501, {"truncate_prompt_tokens": 7}, 5),
        ("x" * 501, {}, None),
    ],
)
def test_a_text_that_may_fit_goes_on(text: str, fields: dict[str, int], longest: int | None) -> None:
    _, (prompt,) = parse_completion(
        json.dumps({"prompt": text, **fields}, ensure_ascii=False).encode(), card(100, longest)
    )
    assert isinstance(prompt, TextPrompt) and prompt.text == text


def test_several_long_lists_are_the_same_ids() -> None:
    lists = [many(30_000), [1, 2, 3], many(10)]
    _, prompts = parse_completion(json.dumps({"prompt": lists}, indent=1).encode(), card(40_000))
    assert [array.array("i", prompt.token_ids).tolist() for prompt in prompts if isinstance(prompt, IdsPrompt)] == lists
    with pytest.raises(ApiError, match="30000"):
        parse_completion(json.dumps({"prompt": lists}).encode(), card(30_000))


@pytest.mark.parametrize("second", ["1,2," * 50_000, {"a": [1]}, 7, None, [[1]], []])
def test_what_stands_among_long_lists_must_be_one(second: Any) -> None:
    with pytest.raises(ApiError) as refused:
        parse_completion(json.dumps({"prompt": [many(60_000), second]}).encode())
    assert refused.value.status == 400 and (refused.value.param or "").startswith("prompt")


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
    assert ids.json()["error"]["code"] == "context_length_exceeded"
    truncated = frontend.client.post("/v1/completions", json={"prompt": many(100_000), "truncate_prompt_tokens": 5})
    assert truncated.status_code == 200
    assert frontend.client.post("/detokenize", json={"tokens": many(100_000)}).status_code == 200
