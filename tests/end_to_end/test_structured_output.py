"""Structured output of the served demo model, as clients ask for it."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import jsonschema
import openai
import pytest
from running_server import RunningServer, serving

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "tags": {"type": "array", "items": {"enum": ["a", "b", "ü"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
HELLO = [{"role": "user", "content": "Tell me about somebody"}]


@pytest.fixture
def client(demo: RunningServer):
    with openai.OpenAI(base_url=demo.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_what_the_sdk_sends_for_a_model_class_is_taken_and_parses(client):
    from pydantic import BaseModel, ConfigDict, Field

    class Nick(BaseModel):
        model_config = ConfigDict(extra="forbid")
        text: str = Field(max_length=5)

    class Person(BaseModel):
        model_config = ConfigDict(extra="forbid")
        name: str = Field(max_length=12)
        age: int = Field(ge=0, le=130)
        kind: Literal["friend", "foe"]
        nick: Nick | None

    answer = client.chat.completions.parse(model="", messages=HELLO, response_format=Person, seed=3, max_tokens=400)
    assert isinstance(answer.choices[0].message.parsed, Person)


@pytest.mark.parametrize("temperature", [0, 1])
def test_streamed_equals_plain_and_both_are_valid(client, temperature):
    fields = {"temperature": temperature, "seed": 5, "max_tokens": 300, "response_format": FORMAT, "messages": HELLO}
    plain = client.chat.completions.create(model="", **fields)
    chunks = [chunk for chunk in client.chat.completions.create(model="", stream=True, **fields) if chunk.choices]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == plain.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert plain.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(text), PERSON)


def test_each_of_n_choices_follows_its_own_course_with_bias_penalties_and_logprobs(client):
    answer = client.chat.completions.create(
        model="", messages=HELLO, n=6, temperature=1, seed=1, max_tokens=300, response_format=FORMAT, logprobs=True,
        top_logprobs=2, frequency_penalty=0.5, logit_bias={"300": 5}, extra_body={"min_tokens": 5, "top_k": 50},
    )  # fmt: skip
    texts = [choice.message.content for choice in answer.choices]
    for choice in answer.choices:
        jsonschema.validate(json.loads(choice.message.content), PERSON)
        tokens = choice.logprobs.content
        assert b"".join(bytes(entry.bytes) for entry in tokens).decode() == choice.message.content
        # Logprobs are the model's own: what the grammar forbids may be the likeliest.
        assert any(entry.top_logprobs[0].token != entry.token for entry in tokens)
    assert len(set(texts)) > 1


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"structured_outputs": {"regex": r"\d{3}-[a-z]{2}"}}, r"\d{3}-[a-z]{2}"),
        ({"structured_outputs": {"choice": ["red", "green"]}}, "red|green"),
        ({"structured_outputs": {"grammar": 'start: "<" /[a-z]{2}/ ">"'}}, "<[a-z]{2}>"),
        ({"structured_outputs": {"grammar": 'root ::= "<" [a-z] [a-z] ">"'}}, "<[a-z]{2}>"),
        ({"guided_regex": "(ja|nein)!"}, "(ja|nein)!"),
        ({"guided_choice": ["日本", "é"], "guided_decoding_backend": "outlines"}, "日本|é"),
        ({"structured_outputs": {"json_object": True}, "max_tokens": 12}, r"\{.*"),
    ],
)
def test_every_kind_is_followed_in_text_completions_too(client, extra, pattern):
    answer = client.completions.create(model="", prompt="Say", max_tokens=60, temperature=1, seed=2, extra_body=extra)
    assert re.fullmatch(pattern, answer.choices[0].text, re.DOTALL)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"response_format": {**FORMAT, "json_schema": {"name": "x", "schema": {"not": {}}}}}, "not"),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "structured_outputs cannot be followed"),
        ({"extra_body": {"structured_outputs": {"grammar": "start: <|nothing|>"}}}, "structured_outputs cannot"),
        ({"extra_body": {"guided_json": {"uniqueItems": True}}}, "uniqueItems"),
    ],
)
def test_what_cannot_be_followed_is_a_400_before_any_header_of_a_stream(client, fields, words, stream):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="", messages=HELLO, stream=stream, **fields)
    assert words in str(refused.value) and refused.value.param


def test_a_stop_string_ends_a_constrained_answer(client):
    answer = client.chat.completions.create(
        model="", messages=HELLO, max_tokens=300, response_format=FORMAT, stop=['"age"'], seed=1
    )
    assert answer.choices[0].finish_reason == "stop" and (answer.choices[0].message.content or "").endswith(",")


def test_constrained_answers_are_the_same_when_the_engine_is_killed_under_them():
    """The worker may be waiting for masks that will never come; new matchers are made of the outputs so far."""
    schema = {"type": "array", "items": PERSON, "minItems": 30, "maxItems": 30}
    flags = ("--max-num-seqs=8", "--kv-cache-memory=64MiB")
    with serving(*flags) as server, openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:

        def ask(seed: int) -> list[str]:
            answer = client.chat.completions.create(
                model="", messages=HELLO, temperature=1, seed=seed, max_tokens=900, extra_body={"guided_json": schema}
            )
            return [answer.choices[0].message.content or "", answer.choices[0].finish_reason]

        undisturbed = [ask(seed) for seed in range(3)]
        begun = server.samples()
        with ThreadPoolExecutor(3) as pool:
            again = [pool.submit(ask, seed) for seed in range(3)]
            deadline = time.monotonic() + 120
            while tokens_of(server.samples()) < tokens_of(begun) + 30 and time.monotonic() < deadline:
                time.sleep(0.02)
            os.kill(server.pids()["engine-0"], signal.SIGKILL)
            assert [answer.result() for answer in again] == undisturbed
        while not resumed(server.samples()):  # it comes with the frontend's next report
            assert time.monotonic() < deadline, server.samples()
            time.sleep(0.05)


def resumed(samples: dict[str, float]) -> float:
    return sum(value for name, value in samples.items() if name.startswith("quire_streams_resumed_total"))


def tokens_of(samples: dict[str, float]) -> float:
    return samples.get("vllm:generation_tokens_total", 0.0)
