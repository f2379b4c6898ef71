"""The SDKs' own types, strictly: every answer and every event is validated, and what it has besides is a known extra.

The SDKs build their objects without validation, so a wrong type would pass by unseen there and fail in a user's code.
"""

from __future__ import annotations

import functools
import json
import os
import urllib.request

import pytest
from anthropic.types import Message, MessageTokensCount, RawMessageStreamEvent
from openai.types import Completion, Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter, ValidationError

URL = os.environ["QUIRE_URL"]
TOOL = {
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
SPELL = [{"role": "user", "content": "Spell quire"}]
CHATS = {
    "text": {"messages": SPELL},
    "two choices": {"messages": SPELL, "n": 2, "temperature": 1, "max_tokens": 5},
    "tool": {"messages": WEATHER, "tools": [{"type": "function", "function": TOOL}]},
    "forced tool": {
        "messages": SPELL,
        "tools": [{"type": "function", "function": TOOL}],
        "tool_choice": "required",
        "max_tokens": 60,
    },
    "logprobs": {"messages": SPELL, "logprobs": True, "top_logprobs": 3},
    "everything": {"messages": SPELL, "logprobs": True, "return_token_ids": True, "stop": [","]},
}
COMPLETIONS = {
    "text": {"prompt": "1, 2, 3,", "max_tokens": 8},
    "prompts": {"prompt": ["1, 2, 3,", "Monday,"], "n": 2, "max_tokens": 4},
    "logprobs": {"prompt": "1, 2, 3,", "max_tokens": 4, "logprobs": 2},
}
RESPONSES = {
    "text": {"input": "Spell quire", "instructions": "Be brief."},
    "tool": {"input": WEATHER, "tools": [{"type": "function", **TOOL}]},
    "format": {"input": "A book, please", "max_output_tokens": 200, "text": {"format": {
        "type": "json_schema", "name": "book", "strict": True, "schema": {"enum": [1, 2]}}}},
    "cut": {"input": "Count from 1 to 50", "max_output_tokens": 16},
    "logprobs": {"input": "Spell quire", "top_logprobs": 2, "include": ["message.output_text.logprobs"]},
}  # fmt: skip
MESSAGES = {
    "text": {"messages": SPELL, "system": [{"type": "text", "text": "Be brief."}]},
    "tool": {"messages": WEATHER, "tools": [
        {"name": TOOL["name"], "description": TOOL["description"], "input_schema": TOOL["parameters"]}]},
    "stop": {"messages": SPELL, "stop_sequences": [","]},
}  # fmt: skip
CHAT_EXTRAS = {
    "prompt_logprobs", "prompt_token_ids", "choices.stop_reason", "choices.token_ids", "choices.message.reasoning",
    "choices.message.reasoning_content", "choices.delta.reasoning", "choices.delta.reasoning_content",
}  # fmt: skip
RESPONSE_EXTRAS = {"store"}
EVENT_EXTRAS = {"response.store", "name"}
COMPLETION_EXTRAS = {"choices.stop_reason", "choices.token_ids", "choices.prompt_logprobs", "choices.prompt_token_ids"}


def ask(path: str, body: dict | None = None) -> bytes:
    request = urllib.request.Request(URL + path, headers={"Content-Type": "application/json"})
    request.data = None if body is None else json.dumps({"temperature": 0, **body}).encode()
    with urllib.request.urlopen(request, timeout=120) as response:
        return response.read()


def events_of(answer: bytes) -> list[bytes]:
    lines = [line[6:] for line in answer.splitlines() if line.startswith(b"data: ")]
    return [line for line in lines if line != b"[DONE]"]


def extras_of(value: object, path: str = "") -> set[str]:
    """Dotted names of everything in `value` that its type does not declare."""
    if isinstance(value, list):
        return {name for item in value for name in extras_of(item, path)}
    if not isinstance(value, BaseModel):
        return set()
    found = {f"{path}{name}" for name in value.model_extra or {}}
    for name in type(value).model_fields:
        found |= extras_of(getattr(value, name), f"{path}{name}.")
    return found


adapter = functools.cache(TypeAdapter)  # made once a type: the union of all events takes a second


def check(kind: object, answer: bytes, allowed: set[str] = frozenset()) -> object:
    try:
        value = adapter(kind).validate_json(answer, strict=True)
    except ValidationError as error:
        pytest.fail(f"{error}\n{answer.decode()}", pytrace=False)
    assert extras_of(value) - allowed == set(), answer
    return value


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS.keys())
def test_chats(fields):
    whole = check(ChatCompletion, ask("/v1/chat/completions", fields), CHAT_EXTRAS)
    assert whole.usage.prompt_tokens_details.cached_tokens >= 0
    fields = {**fields, "stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    chunks = [
        check(ChatCompletionChunk, event, CHAT_EXTRAS) for event in events_of(ask("/v1/chat/completions", fields))
    ]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[-1].choices == [] and all(chunk.usage for chunk in chunks)


@pytest.mark.parametrize("fields", COMPLETIONS.values(), ids=COMPLETIONS.keys())
def test_completions(fields):
    check(Completion, ask("/v1/completions", fields), COMPLETION_EXTRAS)
    for event in events_of(ask("/v1/completions", {**fields, "stream": True})):
        # OpenAI's own chunks say null until the end; their type, made for whole answers, does not know it.
        check(Completion, event.replace(b'"finish_reason":null', b'"finish_reason":"stop"'), COMPLETION_EXTRAS)


@pytest.mark.parametrize("fields", RESPONSES.values(), ids=RESPONSES.keys())
def test_responses(fields):
    whole = check(Response, ask("/v1/responses", fields), RESPONSE_EXTRAS)
    assert check(Response, ask(f"/v1/responses/{whole.id}"), RESPONSE_EXTRAS).output == whole.output
    events = [
        check(ResponseStreamEvent, event, EVENT_EXTRAS)
        for event in events_of(ask("/v1/responses", {**fields, "stream": True}))
    ]
    assert [event.sequence_number for event in events] == [*range(len(events))]
    assert events[-1].response.usage.total_tokens == whole.usage.total_tokens


@pytest.mark.parametrize("fields", MESSAGES.values(), ids=MESSAGES.keys())
def test_messages(fields):
    check(Message, ask("/v1/messages", {"model": "", "max_tokens": 64, **fields}))
    events = events_of(ask("/v1/messages", {"model": "", "max_tokens": 64, **fields, "stream": True}))
    kinds = [check(RawMessageStreamEvent, event).type for event in events if json.loads(event)["type"] != "ping"]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]


def test_models_and_counts():
    for model in json.loads(ask("/v1/models"))["data"]:
        check(Model, json.dumps(model).encode(), {"root", "parent", "max_model_len", "permission"})
    check(MessageTokensCount, ask("/v1/messages/count_tokens", {"model": "", "messages": SPELL}))
