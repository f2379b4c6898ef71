"""Limits of fields are flags: what a flag says is what is taken, refused, documented and shown."""

from __future__ import annotations

import json
import typing
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from quire.services.frontend import field_limits
from quire.services.frontend.bounds import Bound, Items, bounds_in
from quire.services.frontend.chat_protocol import ChatRequest, parse_chat
from quire.services.frontend.completion_protocol import CompletionRequest, parse_completion
from quire.services.frontend.openapi import document
from quire.services.frontend.responses_protocol import ResponsesRequest
from quire.shared.config import FrontendConfig
from quire.shared.errors import ApiError
from quire.shared.flags import fields

PROMISED = {
    "max_json_depth": 64,
    "max_messages": 2048,
    "max_tools": 128,
    "max_stop_strings": 16,
    "max_stop_string_size": 256,
    "max_logit_bias": 1024,
    "max_logprobs": 20,
    "max_choices": 128,
    "max_schema_size": 64 << 10,
    "max_regex_size": 4 << 10,
    "max_cache_salt_size": 64,
}
HELLO = {"role": "user", "content": "x"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def chat(**fields: Any) -> bytes:
    return json.dumps({"messages": [HELLO], **fields}).encode()


def nested(levels: int) -> dict[str, Any]:
    """A body's field whose JSON makes the body so many levels deep."""
    value: Any = 1
    for _ in range(levels - 2):
        value = [value]
    return {"chat_template_kwargs": {"a": value}}


SIZES: dict[str, Callable[[int], bytes]] = {
    "max_json_depth": lambda size: chat(**nested(size)),
    "max_messages": lambda size: json.dumps({"messages": [HELLO] * size}).encode(),
    "max_tools": lambda size: chat(tools=[TOOL] * size),
    "max_stop_strings": lambda size: chat(stop=["x"] * size),
    "max_stop_string_size": lambda size: chat(stop="x" * size),
    "max_logit_bias": lambda size: chat(logit_bias={str(key): 1 for key in range(size)}),
    "max_logprobs": lambda size: chat(logprobs=True, top_logprobs=size),
    "max_choices": lambda size: chat(n=size),
    "max_schema_size": lambda size: chat(guided_json={"x": "y" * (size - len('{"x": ""}'))}),
    "max_regex_size": lambda size: chat(guided_regex="x" * size),
    "max_cache_salt_size": lambda size: chat(cache_salt="x" * size),
}
"""Setting -> a body of which that has this size."""


@pytest.fixture(autouse=True)
def defaults_again() -> Iterator[None]:
    yield
    field_limits.use(FrontendConfig())


def refused(parse: Callable[[bytes], object], body: bytes) -> str:
    with pytest.raises(ApiError) as caught:
        parse(body)
    assert caught.value.status == 400
    return caught.value.message


def test_the_defaults_are_those_that_are_promised() -> None:
    flags = fields(FrontendConfig)
    assert {name: flags[name].default for name in PROMISED} == PROMISED
    assert all(flags[name].flag.group == "limits" for name in PROMISED)


@pytest.mark.parametrize("setting", PROMISED)
@pytest.mark.parametrize("factor", [0.5, 1, 2])
def test_just_within_what_the_flag_says_is_taken_and_just_beyond_is_named(setting: str, factor: float) -> None:
    most = int(PROMISED[setting] * factor)
    field_limits.use(msgspec.structs.replace(FrontendConfig(), **{setting: most}))
    parse_chat(SIZES[setting](most))
    message = refused(parse_chat, SIZES[setting](most + 1))
    assert str(most) in message and field_limits.flag(setting) in message, message


def test_prompts_times_n_is_one_limit() -> None:
    field_limits.use(FrontendConfig(max_choices=6))
    body = json.dumps({"prompt": ["a", "b", "c"], "n": 2}).encode()
    parse_completion(body)
    assert "--max-choices" in refused(parse_completion, body.replace(b"2}", b"3}"))
    assert "--max-choices" in refused(parse_completion, json.dumps({"prompt": ["a"] * 7}).encode())


def settings_of(hint: Any) -> Iterator[str]:
    """The settings of all bounds below a type."""
    for bound in bounds_in(hint):
        yield from settings_in(bound)
        if (kind := getattr(bound, "kind", None)) is not None:
            yield from settings_of(kind)
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        for inner in typing.get_type_hints(hint, include_extras=True).values():
            yield from settings_of(inner)
    for argument in typing.get_args(hint):
        yield from settings_of(argument)


def settings_in(bound: Bound) -> Iterator[str]:
    if setting := getattr(bound, "setting", ""):
        yield setting
    if isinstance(bound, Items):
        for inner in (bound.of, bound.keys):
            if inner is not None:
                yield from settings_in(inner)


def test_every_setting_of_a_bound_is_a_flag_and_every_such_flag_bounds_something() -> None:
    used = {name for cls in (ChatRequest, CompletionRequest, ResponsesRequest) for name in settings_of(cls)}
    assert used == set(PROMISED) - {"max_json_depth"}  # which is no field's


def test_the_document_says_what_the_flags_say() -> None:
    field_limits.use(FrontendConfig(max_logprobs=7, max_stop_strings=3))
    found = document()["components"]["schemas"]["ChatRequest"]["properties"]
    assert found["top_logprobs"]["maximum"] == 7
    assert '"maxItems": 3' in json.dumps(found["stop"])


def test_a_server_takes_its_flags_and_shows_them(start: Any, fake: Any) -> None:
    frontend = start("--max-messages", "2", "--max-json-depth", "9").wait_ready()
    limits = frontend.client.get("/status").json()["limits"]
    assert {name: limits[name] for name in PROMISED} == {**PROMISED, "max_messages": 2, "max_json_depth": 9}
    for body, flag in (({"messages": [HELLO] * 3}, "--max-messages"), ({"messages": [HELLO], **nested(10)}, "depth")):
        answer = frontend.client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400 and flag in answer.json()["error"]["message"]
