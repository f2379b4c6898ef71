"""Beam search over a fake tokenizer: what is refused, what it holds, and what becomes of one that is disturbed."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quire.services.frontend.beam_params import MAX_BEAMS
from quire.services.frontend.chat_protocol import parse_chat
from quire.services.frontend.completion_protocol import parse_completion
from quire.shared.errors import ApiError
from quire.shared.messages import Generate, IdsPrompt

from .conftest import eventually
from .test_lifecycle import post_raw

BEAMS = {"use_beam_search": True, "n": 2, "max_tokens": 3}
REFUSED: list[tuple[str, Any]] = [
    ("temperature", 0.7), ("top_p", 0.9), ("top_k", 5), ("min_p", 0.1), ("presence_penalty", 1),
    ("frequency_penalty", -1), ("repetition_penalty", 1.1), ("min_tokens", 1), ("stop", "x"), ("stop", ["x"]),
    ("stop_token_ids", [1]), ("logit_bias", {"1": 1}), ("allowed_token_ids", [1]), ("prompt_logprobs", 0),
    ("beam_width", 1), ("beam_width", MAX_BEAMS + 1), ("beam_width", 0), ("best_of", 1), ("n", MAX_BEAMS + 1),
    ("length_penalty", 10.1), ("length_penalty", -10.1), ("early_stopping", "always"), ("early_stopping", 1),
]  # fmt: skip
TAKEN: list[tuple[str, Any]] = [
    ("temperature", 0), ("temperature", 1), ("top_p", 1), ("top_k", -1), ("min_p", 0), ("presence_penalty", 0),
    ("repetition_penalty", 1), ("stop", []), ("stop", None), ("logit_bias", {}), ("seed", 5), ("beam_width", 2),
    ("beam_width", MAX_BEAMS), ("best_of", 4), ("length_penalty", -10), ("early_stopping", True),
    ("early_stopping", "never"), ("ignore_eos", True),
]  # fmt: skip


def chat(**fields: Any) -> bytes:
    return json.dumps({"messages": [{"role": "user", "content": "x"}], **BEAMS, **fields}).encode()


def completion(**fields: Any) -> bytes:
    return json.dumps({"prompt": "x", **BEAMS, **fields}).encode()


@pytest.mark.parametrize(("name", "value"), REFUSED)
def test_what_beams_do_not_follow_is_refused_by_name(name: str, value: Any) -> None:
    for parse, body in ((parse_chat, chat), (parse_completion, completion)):
        with pytest.raises(ApiError) as caught:
            parse(body(**{name: value}))
        assert (caught.value.status, caught.value.param) == (400, name)
        assert name in str(caught.value)


@pytest.mark.parametrize(("name", "value"), TAKEN)
def test_fields_that_ask_beams_for_nothing_else_are_taken(name: str, value: Any) -> None:
    assert parse_chat(chat(**{name: value}))[0].use_beam_search
    assert parse_completion(completion(**{name: value}))[0].use_beam_search


@pytest.mark.parametrize(("name", "value"), [("beam_width", 4), ("length_penalty", 0.5), ("early_stopping", True)])
def test_fields_of_beams_need_a_beam_search(name: str, value: Any) -> None:
    with pytest.raises(ApiError, match="use_beam_search: true") as caught:
        parse_chat(chat(use_beam_search=False, **{name: value}))
    assert caught.value.param == name
    parse_chat(chat(use_beam_search=False, beam_width=None, length_penalty=1.0, early_stopping=False))


def test_the_prompts_logprobs_and_an_answer_of_no_tokens_are_refused() -> None:
    for parse, body in (
        (parse_completion, completion(logprobs=0, echo=True)),
        (parse_completion, completion(max_tokens=0, echo=True)),
        (parse_completion, completion(beam_width=4, best_of=3)),
    ):
        with pytest.raises(ApiError, match="cannot be combined with use_beam_search"):
            parse(body)
    parse_chat(chat(logprobs=True, top_logprobs=20))
    parse_completion(completion(echo=True))


def test_the_width_is_beam_width_or_its_older_name_or_n() -> None:
    assert parse_chat(chat())[0].width == 2
    assert parse_chat(chat(beam_width=5))[0].width == 5
    assert parse_chat(chat(best_of=6))[0].width == 6
    assert parse_chat(chat(use_beam_search=False, n=3))[0].width == 3
    with pytest.raises(ApiError, match="17 prompts x 8 beams"):
        parse_completion(completion(prompt=["x"] * 17, beam_width=8))


def ask(frontend: Any, prompt: str = "one two", **fields: Any) -> Any:
    return frontend.client.post("/v1/completions", json={"prompt": prompt, **BEAMS, **fields})


def test_a_constraint_cannot_be_enforced_on_beams(frontend: Any) -> None:
    answer = ask(frontend, response_format={"type": "json_object"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "response_format"
    assert "cannot be combined with use_beam_search" in answer.json()["error"]["message"]


def test_each_step_goes_down_as_one_request_a_beam_and_the_prompt_is_counted_once(
    tokenizer: Any, frontend: Any
) -> None:
    before = len(tokenizer.generates)
    body = ask(frontend, beam_width=3, return_token_ids=True, cache_salt="s").json()
    sent = tokenizer.generates[before:]
    assert [type(generate.prompt) is IdsPrompt for generate in sent] == [False] + [True] * (len(sent) - 1)
    steps = [generate for generate in sent if not generate.history]
    assert len(steps) == 1 + 3 + 3
    for generate in steps:
        assert (generate.n, generate.sampling.max_tokens, generate.sampling.logprobs) == (1, 1, 6)
        assert generate.cache_salt == "s" and not generate.sampling.stop_token_ids
    texts = [generate for generate in sent if generate.history]
    ids = [choice["token_ids"] for choice in body["choices"]]
    # The fake says of every prompt that its likeliest tokens are 501, 502, ...
    assert ids[0] == [501, 501, 501] and sorted(ids[1]) == [501, 501, 502]
    assert [len(generate.history[0].output_ids) for generate in texts] == [12, 12]
    assert body["usage"]["prompt_tokens"] == 2 and body["usage"]["completion_tokens"] == 6
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 3
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length"] * 2


def test_each_token_of_a_beam_has_the_logprobs_of_its_step(tokenizer: Any, frontend: Any) -> None:
    for body in (ask(frontend, beam_width=3, logprobs=2).json(), ask(frontend, beam_width=3, logprobs=20).json()):
        first, second = (choice["logprobs"] for choice in body["choices"])
        assert first["tokens"] == ["top1"] * 3 and sorted(second["tokens"]) == ["top1", "top1", "top2"]
        assert first["token_logprobs"] == [-0.1] * 3 and sorted(second["token_logprobs"]) == [-0.2, -0.1, -0.1]
        for top in first["top_logprobs"] + second["top_logprobs"]:
            assert list(top)[:2] == ["top1", "top2"]
    assert len(first["top_logprobs"][0]) == 20
    steps = [generate for generate in tokenizer.generates if not generate.history]
    assert steps[-1].sampling.logprobs == 20 and steps[-8].sampling.logprobs == 6
    messages = [{"role": "user", "content": "one"}]
    body = frontend.client.post("/v1/chat/completions", json={"messages": messages, **BEAMS, "logprobs": True}).json()
    for choice in body["choices"]:
        assert len(choice["logprobs"]["content"]) == 3
        assert all(entry["top_logprobs"] == [] for entry in choice["logprobs"]["content"])


def test_a_stream_brings_every_beam_whole(frontend: Any) -> None:
    whole = ask(frontend).json()
    options = {"stream": True, "stream_options": {"include_usage": True}}
    with frontend.client.stream("POST", "/v1/completions", json={"prompt": "one two", **BEAMS, **options}) as stream:
        data = [line[6:] for line in stream.iter_lines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    chunks = [json.loads(line) for line in data[:-1]]
    texts = [choice["text"] for chunk in chunks for choice in chunk["choices"] if choice["text"]]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert chunks[-1]["usage"] == whole["usage"]


def test_a_search_holds_a_place_for_every_beam(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start("--max-in-flight=10").wait_ready()
    with post_raw(frontend, {"prompt": "!stuck", **BEAMS, "beam_width": 8}):
        eventually(lambda: fake.generates)
        eventually(lambda: frontend.client.get("/status").json()["in_flight"] == 8)
        refused = ask(frontend, n=3)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert ask(frontend).status_code == 200
    eventually(lambda: frontend.client.get("/status").json()["in_flight"] == 0)


@pytest.fixture
def hold_steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Every step behind a prompt's first stays unanswered by that tokenizer."""

    def hold(fake: Any) -> None:
        answer = fake._answer

        def answer_first(peer: str, generate: Generate) -> None:
            if type(generate.prompt) is not IdsPrompt:
                answer(peer, generate)

        monkeypatch.setattr(fake, "_answer", answer_first)

    return hold


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_gone_client_has_every_beam_aborted(
    tokenizer: Any, frontend: Any, hold_steps: Any, is_streamed: bool
) -> None:
    hold_steps(tokenizer)
    before, aborts_before = len(tokenizer.generates), len(tokenizer.aborts)
    with post_raw(frontend, {"prompt": "one", **BEAMS, "beam_width": 4, "stream": is_streamed}):
        eventually(lambda: len(tokenizer.generates) == before + 5)
    eventually(lambda: len(tokenizer.aborts) == aborts_before + 4)
    aborts = tokenizer.aborts[aborts_before:]
    assert {abort.request_id for abort in aborts} == {one.request_id for one in tokenizer.generates[before + 1 :]}
    assert {abort.cause for abort in aborts} == {"client_gone"}
    eventually(lambda: frontend.client.get("/status").json()["in_flight"] == 0)


def test_a_search_goes_on_with_the_next_tokenizer_when_the_only_one_is_lost(
    run_dir: Path, start: Callable[..., Any], fake_class: Any, hold_steps: Any
) -> None:
    first = fake_class(run_dir, 0)
    frontend = start().wait_ready()
    undisturbed = ask(frontend).json()
    hold_steps(first)
    before = len(first.generates)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, frontend)
        eventually(lambda: len(first.generates) == before + 3)
        first.close()
        second = fake_class(run_dir, 0)
        body = answer.result(30).json()
    assert body["choices"] == undisturbed["choices"] and body["usage"] == undisturbed["usage"]
    second.close()


def test_a_step_that_finds_no_tokenizer_waits_for_one(fake: Any, start: Callable[..., Any]) -> None:
    frontend = start().wait_ready()
    answer = fake._answer
    held: list[Callable[[], None]] = []

    def answer_late(peer: str, generate: Any) -> None:
        held.append(lambda: answer(peer, generate))

    fake._answer = answer_late
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask, frontend)
        eventually(lambda: held)
        fake.set_ready(False)
        eventually(lambda: frontend.client.get("/ready").status_code == 503)
        fake._answer = answer
        fake.later(0.0, held[0])
        eventually(lambda: "quire_streams_resumed_total" in frontend.client.get("/metrics").text)
        assert not asked.done()
        fake.set_ready(True)
        assert asked.result(30).status_code == 200


def test_without_resuming_a_lost_search_ends_with_a_clean_error(
    run_dir: Path, start: Callable[..., Any], fake_class: Any, hold_steps: Any
) -> None:
    fake = fake_class(run_dir, 0)
    frontend = start("--no-resume").wait_ready()
    hold_steps(fake)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, frontend)
        eventually(lambda: len(fake.generates) == 3)
        fake.close()
        error = answer.result(30)
    assert (error.status_code, error.json()["error"]["code"]) == (503, "service_unavailable")


def test_a_row_that_fails_ends_the_search_with_an_error(tokenizer: Any, frontend: Any) -> None:
    answer = ask(frontend, "!error")
    assert answer.status_code == 500 and "The worker stumbled." in answer.json()["error"]["message"]
    assert frontend.client.get("/status").json()["in_flight"] == 0
