"""Streamed answers are the whole ones, usage included: every API, every feature that shapes an answer."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from running_server import RunningServer

SPELL = [{"role": "user", "content": "Spell quire"}]
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"]}
FUNCTION = {"name": "get_weather", "description": "Get the weather of a city.", "parameters": CITY}
TOOL = {"type": "function", "function": FUNCTION}
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}, "b": {"enum": ["x", "yz"]}}, "required": ["a", "b"]}
DRAWN = {"temperature": 1, "seed": 7, "max_tokens": 24}
COMMON: dict[str, dict[str, Any]] = {
    "plain": {},
    "drawn": DRAWN,
    "two choices": {**DRAWN, "n": 2},
    "stop string": {"stop": ["i", "zz"]},
    "stop string shown": {"stop": ["i"], "include_stop_str_in_output": True},
    "stop token": {"stop_token_ids": [45, 50, 55, 60]},
    "cut": {"max_tokens": 3},
    "least tokens": {"min_tokens": 20, "max_tokens": 24},
    "beyond the end": {"ignore_eos": True, "max_tokens": 30},
    "penalties": {**DRAWN, "presence_penalty": 1, "repetition_penalty": 1.3},
    "bias": {**DRAWN, "logit_bias": {"40": 5, "41": -100}},
    "words left out": {"bad_words": ["q", "u"], "max_tokens": 16},
    "special tokens shown": {"skip_special_tokens": False},
    "token ids": {**DRAWN, "return_token_ids": True, "n": 2},
    "choice": {"structured_outputs": {"choice": ["yes", "no"]}},
    "regex": {"structured_outputs": {"regex": "[0-9]{3}-[a-f]{2}"}},
    "beams": {"use_beam_search": True, "beam_width": 3, "n": 2, "max_tokens": 6},
}
CHAT: dict[str, dict[str, Any]] = {
    **COMMON,
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
    "logprobs": {**DRAWN, "logprobs": True, "top_logprobs": 2, "n": 2},
    "logprobs of a stop": {"logprobs": True, "top_logprobs": 0, "stop": ["i"]},
    "tool": {"messages": WEATHER, "tools": [TOOL]},
    "forced tool": {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60},
    "named tool": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}, "n": 2},
    "tools refused": {"messages": WEATHER, "tools": [TOOL], "tool_choice": "none"},
    "continued": {
        "messages": [*SPELL, {"role": "assistant", "content": "Q"}],
        "continue_final_message": True,
        "add_generation_prompt": False,
    },
}
COMPLETIONS: dict[str, dict[str, Any]] = {
    **COMMON,
    "prompts": {**DRAWN, "prompt": ["1, 2, 3,", "Monday,"], "n": 2},
    "ids": {"prompt": [40, 41, 42, 43]},
    "logprobs": {**DRAWN, "logprobs": 2, "n": 2},
    "echo": {"echo": True, "n": 2, **DRAWN},
    "echo with logprobs": {"echo": True, "logprobs": 1, "max_tokens": 4},
    "scored": {"echo": True, "logprobs": 1, "max_tokens": 0},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}},
}
RESPONSES: dict[str, dict[str, Any]] = {
    "plain": {"instructions": "Be brief."},
    "cut": {"max_output_tokens": 4},
    "logprobs": {"top_logprobs": 2},
    "tool": {"input": WEATHER, "tools": [{"type": "function", **FUNCTION}]},
    "forced tool": {"tools": [{"type": "function", **FUNCTION}], "tool_choice": "required", "max_output_tokens": 60},
    "schema": {"text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}},
}
MESSAGES: dict[str, dict[str, Any]] = {
    "plain": {"system": "Be brief."},
    "cut": {"max_tokens": 4},
    "stop sequence": {"stop_sequences": ["i"]},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "tool": {"messages": WEATHER, "tools": [{"name": "get_weather", "input_schema": CITY}]},
    "forced tool": {"tools": [{"name": "get_weather", "input_schema": CITY}], "tool_choice": {"type": "any"}},
}
PASSING = ("id", "created", "created_at", "completed_at", "call_id", "response_id", "item_id")
"""What differs between two answers to the same request."""


def settled(value: Any) -> Any:
    """Without what passes, and without what is nothing."""
    if isinstance(value, dict):
        return {key: settled(item) for key, item in value.items() if key not in PASSING and item not in (None, [], {})}
    return [settled(item) for item in value] if isinstance(value, list) else value


def ask(server: RunningServer, path: str, body: dict[str, Any]) -> httpx.Response:
    response = httpx.post(server.url + path, json={"temperature": 0, "model": "", **body}, timeout=120)
    assert response.status_code == 200, response.text
    return response


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = (line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: "))
    return [json.loads(line) for line in lines if line != "[DONE]"]


def both(server: RunningServer, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The whole answer and the stream, once the prompt is in the prefix cache of both."""
    ask(server, path, body)
    stream = {"stream": True}
    if "/completions" in path:
        stream["stream_options"] = {"include_usage": True}  # type: ignore[assignment]
    return ask(server, path, body).json(), events(ask(server, path, {**body, **stream}))


def add(into: dict[str, Any], delta: dict[str, Any]) -> None:
    """As clients put a message together: texts and lists grow, calls by their index."""
    for name, value in delta.items():
        if name == "tool_calls":
            for call in value:
                calls = into.setdefault(name, [])
                if call["index"] == len(calls):
                    calls.append({"function": {}})
                add(calls[call["index"]], {key: item for key, item in call.items() if key not in ("index", "type")})
        elif isinstance(value, dict):
            into[name] = into.get(name) or {}
            add(into[name], value)
        elif name in ("role", "name", "index") or into.get(name) is None:
            into[name] = value
        elif isinstance(value, (str, list)):
            into[name] = into[name] + value


def folded(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    """The whole answer that chunks of chat or text completions amount to."""
    answer: dict[str, Any] = {key: chunks[0][key] for key in ("model", "system_fingerprint")}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for given in chunk["choices"]:
            choice = choices.setdefault(given["index"], {})
            add(choice, {("message" if key == "delta" else key): value for key, value in given.items()})
        answer |= {key: chunk[key] for key in ("usage", "prompt_token_ids") if chunk.get(key)}
    answer["choices"] = [choices[index] for index in sorted(choices)]
    return answer


def whole_of(answer: dict[str, Any]) -> dict[str, Any]:
    found = settled(answer)
    found.pop("object")
    for choice in found["choices"]:
        for call in choice.get("message", {}).get("tool_calls", []):
            call.pop("type")
        if "message" in choice:
            choice["message"].setdefault("content", "")  # null beside calls; a stream says "" with the role
    return found


@pytest.mark.parametrize("name", CHAT)
def test_chats(demo: RunningServer, name: str) -> None:
    whole, chunks = both(demo, "/v1/chat/completions", {"messages": SPELL, "max_tokens": 100, **CHAT[name]})
    assert settled(folded(chunks)) == whole_of(whole)


@pytest.mark.parametrize("name", COMPLETIONS)
def test_completions(demo: RunningServer, name: str) -> None:
    whole, chunks = both(demo, "/v1/completions", {"prompt": "1, 2, 3,", "max_tokens": 24, **COMPLETIONS[name]})
    assert settled(folded(chunks)) == whole_of(whole)


@pytest.mark.parametrize("name", RESPONSES)
def test_responses(demo: RunningServer, name: str) -> None:
    body = {"input": "Spell quire", "max_output_tokens": 100, **RESPONSES[name]}
    whole, stream = both(demo, "/v1/responses", body)
    assert settled(stream[-1]["response"]) == settled(whole)
    texts: dict[int, str] = {}
    for event in stream:
        if event["type"].endswith(".delta"):
            texts[event["output_index"]] = texts.get(event["output_index"], "") + event["delta"]
    shown = [item.get("arguments") or "".join(part["text"] for part in item["content"]) for item in whole["output"]]
    assert [texts.get(index, "") for index in range(len(shown))] == shown


@pytest.mark.parametrize("name", MESSAGES)
def test_messages(demo: RunningServer, name: str) -> None:
    whole, stream = both(demo, "/v1/messages", {"messages": SPELL, "max_tokens": 100, **MESSAGES[name]})
    message = stream[0]["message"]
    for event in stream:
        if event["type"] == "content_block_start":
            message["content"].append({**event["content_block"], "written": ""})
        elif event["type"] == "content_block_delta":
            message["content"][-1]["written"] += next(v for k, v in event["delta"].items() if k != "type")
        elif event["type"] == "message_delta":
            message |= {**event["delta"], "usage": event["usage"]}
    for block in message["content"]:
        written = block.pop("written")
        name_of = {"tool_use": "input"}.get(block["type"], block["type"])
        block[name_of] = json.loads(written) if block["type"] == "tool_use" else written
    assert settled(message) == settled(whole)
