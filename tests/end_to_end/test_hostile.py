"""A served model and clients that mean harm: every answer is a refusal or an answer, and others notice nothing."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator

import httpx
import msgspec
import pytest
from boundaries import Case, cases
from running_server import RunningServer, serving

from bench.client import LoadClient, Target
from quire.services.frontend import answer_shapes as shapes
from quire.services.frontend.anthropic_shapes import AnthropicError

CHAT = "/v1/chat/completions"
LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
OURS = re.compile(r"(/[\w.-]+){2,}|Traceback|0x[0-9a-f]{6,}|\b\w+(Error|Exception)\b|\bNone\b")
"""What an error would say that is not written for a client: paths, addresses, exceptions."""
EVIL = [
    {"chat_template": LOOP},
    {"chat_template": "{{ 'a' | center(1000000000) }}"},
    {"chat_template": "{{ ''.__class__.__mro__ }}"},
    {"chat_template": "{% include '/etc/passwd' %}"},
    {"chat_template": "{{ " + "(" * 3000 + ")" * 3000 + " }}"},
    {"chat_template": "{% if %}"},
    {"chat_template": "{{ messages[0].content }}" + LOOP, "chat_template_kwargs": {"x": [1] * 1000}},
]


@pytest.fixture(scope="module")
def guarded() -> Iterator[RunningServer]:
    """A server that takes templates from requests."""
    with serving("--trust-request-chat-template", "--max-in-flight=600") as server:
        yield server


def body(**fields: object) -> bytes:
    base = {"messages": [{"role": "user", "content": "Count from 1 to 20"}], "temperature": 0, "max_tokens": 40}
    return json.dumps({**base, **fields}).encode()


def text_of(events: list[bytes]) -> str:
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    return "".join(choice["delta"].get("content", "") for choice in choices)


def test_evil_templates_are_refused_while_streams_go_on(guarded: RunningServer) -> None:
    async def measure() -> tuple[str, list[tuple[int, float, str]], list[str]]:
        client = LoadClient(Target.parse(guarded.url), keeps_texts=True)
        alone = await client.post(CHAT, body(stream=True, ignore_eos=True, max_tokens=400))
        streams = [
            asyncio.ensure_future(client.post(CHAT, body(stream=True, ignore_eos=True, max_tokens=400)))
            for _ in range(4)
        ]
        refusals = []
        for evil in EVIL:
            start = time.perf_counter()
            answer = await client.post(CHAT, body(**evil))
            refusals.append((answer.status, time.perf_counter() - start, answer.error))
        beside = [text_of((await stream).texts) for stream in streams]
        client.close()
        return text_of(alone.texts), refusals, beside

    pids = guarded.pids()
    alone, refusals, beside = asyncio.run(measure())
    print("seconds to a refusal:", [round(seconds, 3) for _, seconds, _ in refusals])
    for status, _, error in refusals:
        assert status == 400 and "chat_template" in error and "Traceback" not in error, error
    assert beside == [alone] * 4
    assert guarded.pids() == pids


def test_a_clients_own_template_and_values_are_used(guarded: RunningServer) -> None:
    own = "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ suffix }}{% endfor %}"
    fields = {"chat_template": own, "chat_template_kwargs": {"suffix": " and more" * 9}, "return_token_ids": True}
    answer = httpx.post(guarded.url + CHAT, content=body(**fields), timeout=60)
    assert answer.status_code == 200
    ids = answer.json()["prompt_token_ids"]
    text = httpx.post(
        guarded.url + "/v1/completions", json={"prompt": ids, "echo": True, "max_tokens": 0}, timeout=30
    ).json()["choices"][0]["text"]
    assert text.endswith("Count from 1 to 20" + " and more" * 9)


def test_a_clients_own_template_needs_the_operators_flag(demo: RunningServer) -> None:
    answer = httpx.post(demo.url + CHAT, content=body(chat_template="x"), timeout=60)
    assert answer.status_code == 400 and "--trust-request-chat-template" in answer.json()["error"]["message"]
    counted = httpx.post(demo.url + "/tokenize", content=body(chat_template="x"), timeout=30)
    assert counted.status_code == 400 and counted.json()["error"]["param"] == "chat_template"


def test_every_bound_over_http_just_inside_and_just_outside(demo: RunningServer) -> None:
    """Outside: 400 that names the field. Inside: an answer, or a 400 of something only the model knows."""

    async def post_all() -> list[tuple[Case, httpx.Response]]:
        answers: list[tuple[Case, httpx.Response]] = []
        # The last of each field, which is its upper bound: test_openapi.py has all of them.
        pending = iter({(case.path, case.field, case.is_inside): case for case in cases()}.values())

        async def worker(client: httpx.AsyncClient) -> None:
            for case in pending:
                while (answer := await client.post(case.path, content=case.body)).status_code == 429:
                    pass  # others at this moment ask for 128 answers
                answers.append((case, answer))

        async with httpx.AsyncClient(
            base_url=demo.url, timeout=60, headers={"content-type": "application/json"}
        ) as client:
            await asyncio.gather(*(worker(client) for _ in range(4)))
        return answers

    pids = demo.pids()
    for case, answer in asyncio.run(post_all()):
        assert answer.status_code in ((200, 400, 404) if case.is_inside else (400,)), (case, answer.text)
        if answer.status_code == 400:
            if case.path.startswith("/v1/messages"):
                sentence = msgspec.json.decode(answer.content, type=AnthropicError).error.message
                assert case.is_inside or case.limit in sentence
                continue
            error = msgspec.json.decode(answer.content, type=shapes.Error).error
            assert not OURS.search(error.message), error.message
            if not case.is_inside:
                assert case.limit in error.message and (error.param or "").startswith(
                    case.field.partition("[")[0].partition(".")[0]
                ), (case, error)
    assert demo.pids() == pids
