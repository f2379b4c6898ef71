"""Anthropic's messages over HTTP: what is sent down for them, their events, and their errors."""

# ruff: noqa: E501 (a case a line)

from __future__ import annotations

import json
from typing import Any

import httpx
import msgspec
import pytest
from test_chat_tools import CALL, THOUGHT

from quire.services.frontend.anthropic_shapes import AnthropicAnswerMessage, AnthropicError, AnthropicEvent

TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}}}
THINKING = {"type": "enabled", "budget_tokens": 1024}


def say(text: str, how: str = "", **fields: Any) -> dict[str, Any]:
    return {"max_tokens": 64, "messages": [{"role": "user", "content": f"{how} !say {text}"}], **fields}


def events(response: httpx.Response) -> list[dict[str, Any]]:
    """Of a whole stream: each with its `event:` line, and nothing else."""
    assert response.status_code == 200, response.text
    blocks = response.text.split("\n\n")
    assert blocks.pop() == ""
    found = []
    for block in blocks:
        event, data = block.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert event == f"event: {found[-1]['type']}"
        if found[-1]["type"] != "error":
            msgspec.json.decode(data.removeprefix("data: "), type=AnthropicEvent)
    return found


def fold(stream: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client puts together; checks the order on the way."""
    message = stream[0]["message"]
    assert stream[0]["type"] == "message_start" and message["content"] == [] and stream[-1]["type"] == "message_stop"
    open_block = None
    for event in stream[1:-1]:
        if event["type"] == "content_block_start":
            assert open_block is None and event["index"] == len(message["content"])
            open_block, partial = event["content_block"], ""
            message["content"].append(open_block)
        elif event["type"] == "content_block_delta":
            assert open_block is not None and event["index"] == len(message["content"]) - 1
            delta = event["delta"]
            if delta["type"] == "input_json_delta":
                partial += delta["partial_json"]
                open_block["input"] = partial
            else:
                (name,) = set(delta) - {"type"}
                open_block[name] += delta[name]
        elif event["type"] == "content_block_stop":
            if open_block and open_block["type"] == "tool_use":
                open_block["input"] = json.loads(open_block["input"])
            open_block = None
        else:
            assert event["type"] == "message_delta" and open_block is None
            message |= event["delta"]
            message["usage"] = event["usage"]
    return message


def plain(parsing: Any, body: dict[str, Any]) -> dict[str, Any]:
    response = parsing.client.post("/v1/messages", json=body)
    assert response.status_code == 200, response.text
    msgspec.json.decode(response.content, type=AnthropicAnswerMessage)
    return response.json()


def test_a_whole_message_has_anthropics_shape(parsing: Any) -> None:
    body = plain(parsing, say("Hello", model="demo"))
    assert body.pop("id").startswith("msg_")
    assert (
        body
        == {
            "type": "message",
            "role": "assistant",
            "model": "demo",
            "content": [{"type": "text", "text": "Hello"}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 0,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 3,
                "output_tokens": 1,
            },
        }
        or body["usage"]["cache_read_input_tokens"] + body["usage"]["input_tokens"] == 2
    )


@pytest.mark.parametrize(
    "text", ["Hello.\n", THOUGHT + "Well. " + CALL + CALL, CALL, THOUGHT + "Yes", "", "<tool_call>no"]
)
@pytest.mark.parametrize("how", ["", "!bits", "!bits !inside"])
@pytest.mark.parametrize("thinking", [None, THINKING])
def test_streamed_equals_whole(parsing: Any, text: str, how: str, thinking: Any) -> None:
    body = say(text, how, tools=[TOOL], thinking=thinking)
    whole = plain(parsing, body)
    streamed = fold(events(parsing.client.post("/v1/messages", json={**body, "stream": True})))
    for message in (whole, streamed):
        message.pop("id")
        for block in message["content"]:
            block.pop("id", None)
    assert streamed == whole


def test_thinking_and_calls_are_blocks_of_their_own(parsing: Any) -> None:
    body = plain(parsing, say(THOUGHT + "Well. " + CALL, tools=[TOOL], thinking=THINKING))
    thought, text, call = body["content"]
    assert thought == {"type": "thinking", "thinking": "hm, so", "signature": ""}
    assert text == {"type": "text", "text": "Well."}
    assert (call["type"], call["name"], call["input"]) == ("tool_use", "f", {"a": 1})
    assert body["stop_reason"] == "tool_use"


def test_thinking_is_hidden_unless_it_was_asked_for(parsing: Any) -> None:
    body = plain(parsing, say(THOUGHT + "Yes"))
    assert [block["type"] for block in body["content"]] == ["text"]
    assert json.loads(parsing.fake.generates[-1].prompt.template_kwargs_json) == {"enable_thinking": False}
    plain(parsing, say("x", thinking=THINKING))
    assert json.loads(parsing.fake.generates[-1].prompt.template_kwargs_json) == {"enable_thinking": True}


def test_stop_reasons_are_anthropics(parsing: Any) -> None:
    def ask(text: str) -> dict[str, Any]:
        return plain(parsing, {"max_tokens": 9, "messages": [{"role": "user", "content": text}]})

    assert (ask("!stop-string")["stop_reason"], ask("!stop-string")["stop_sequence"]) == ("stop_sequence", "END")
    assert ask("!long")["stop_reason"] == "max_tokens"
    assert ask("!stop")["stop_reason"] == "end_turn"


def test_blocks_become_the_messages_that_templates_know(parsing: Any) -> None:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "4"}]},
                {"type": "text", "text": "!say ok"},
            ],
        },
    ]
    system = [{"type": "text", "text": "be"}, {"type": "text", "text": "brief"}]
    plain(parsing, {"max_tokens": 9, "system": system, "messages": messages, "tools": [TOOL], "stop_sequences": ["x"]})
    sent = parsing.fake.generates[-1]
    call = {"id": "toolu_1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}
    assert json.loads(sent.prompt.messages_json) == [
        {"role": "system", "content": "be\nbrief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": "I look.", "reasoning_content": "hm", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "toolu_1", "content": "4"},
        {"role": "user", "content": [{"type": "text", "text": "!say ok"}]},
    ]
    function = {"name": "f", "description": "d", "parameters": TOOL["input_schema"]}
    assert json.loads(sent.prompt.tools_json) == [{"type": "function", "function": function}]
    assert sent.text.stop == ["x"] and sent.sampling.max_tokens == 9


def test_a_last_assistant_message_is_continued(parsing: Any) -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "!say a"}]
    plain(parsing, {"max_tokens": 9, "messages": messages})
    prompt = parsing.fake.generates[-1].prompt
    assert prompt.continue_final_message and not prompt.add_generation_prompt


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "word"),
    [
        ("/v1/messages", {"messages": [{"role": "user", "content": "x"}]}, 400, "invalid_request_error", "max_tokens"),
        ("/v1/messages", say("x", temperature=1.5), 400, "invalid_request_error", "temperature"),
        ("/v1/messages", say("x", model="gone"), 404, "not_found_error", "gone"),
        ("/v1/messages", say("x", tools=[{"type": "bash_20250124", "name": "bash"}]), 400, "invalid_request_error", "bash_"),
        ("/v1/messages", say("x", tools=[TOOL], tool_choice={"type": "tool", "name": "g"}), 400, "invalid_request_error", "g"),
        ("/v1/messages", say("x", mcp_servers=[{"url": "x"}]), 400, "invalid_request_error", "mcp_servers"),
        ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "invalid_request_error", "image"),
        ("/v1/messages", {"max_tokens": 1, "messages": [{"role": "user", "content": "!refuse"}]}, 503, "overloaded_error", "too much"),
        ("/v1/messages/count_tokens", {"messages": []}, 400, "invalid_request_error", "messages"),
        ("/v1/messages/nothing", {}, 404, "not_found_error", "nothing"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_in_anthropics_envelope(
    parsing: Any, path: str, body: dict[str, Any], status: int, kind: str, word: str, stream: bool
) -> None:
    response = parsing.client.post(path, json={**body, "stream": stream})
    assert response.status_code == status
    error = msgspec.json.decode(response.content, type=AnthropicError)
    assert error.error.type == kind and word in error.error.message
    assert error.request_id == response.headers["request-id"] == response.headers["x-request-id"]


def test_a_stream_that_fails_ends_with_an_error_event(parsing: Any) -> None:
    body = {"max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "!error"}]}
    found = events(parsing.client.post("/v1/messages", json=body))
    assert found[-1]["type"] == "error" and found[-1]["error"]["type"] == "api_error"


def test_a_quiet_message_carries_pings_once_it_has_begun(fake: Any, start: Any) -> None:
    process = start("--keep-alive-interval", "0.1", "--queue-timeout", "0.2").wait_ready()
    for prompt, wanted in (("!stuck", "event: ping"), ("!hang", ": keep-alive")):
        body = {"max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": prompt}]}
        with process.client.stream("POST", "/v1/messages", json=body) as stream:
            lines = []
            for line in stream.iter_lines():
                lines.append(line)
                if lines.count(wanted) == 3:
                    break
        if prompt == "!stuck":
            assert lines[0] == "event: message_start" and 'data: {"type":"ping"}' in lines
        else:
            assert set(lines) == {wanted, ""}


def test_arguments_that_are_no_object_are_shown_as_they_were_written(parsing: Any) -> None:
    text = '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'
    assert plain(parsing, say(text, tools=[TOOL]))["content"][0]["input"] == {"INVALID_JSON": "[1]"}


def test_the_key_may_come_as_x_api_key_on_these_paths_only(start: Any, fake: Any) -> None:
    process = start("--api-key", "sesame").wait_ready()
    for path, headers, status in [
        ("/v1/messages", {"x-api-key": "sesame"}, 200),
        ("/v1/messages", {"authorization": "Bearer sesame"}, 200),
        ("/v1/messages", {"x-api-key": "other"}, 401),
        ("/v1/messages", {}, 401),
        ("/v1/chat/completions", {"x-api-key": "sesame"}, 401),
    ]:
        response = process.client.post(path, headers=headers, json=say("x"))
        assert response.status_code == status, (path, headers)
        if status == 401 and path == "/v1/messages":
            assert response.json()["error"]["type"] == "authentication_error"


def test_tokens_are_counted_without_running_anything(parsing: Any) -> None:
    response = parsing.client.post(
        "/v1/messages/count_tokens", json={"messages": [{"role": "user", "content": "a b c"}]}
    )
    assert response.json() == {"input_tokens": 3}
    assert parsing.fake.generates[-1].text.only_tokenizes
