"""Chats with tools and reasoning over HTTP: what is sent down for them, and what clients get back."""

from __future__ import annotations

import json
from typing import Any

import httpx
import openai
import pytest
from test_http import error_of, events

PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": PARAMETERS}}
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
THOUGHT = "<think>\nhm, so\n</think>\n\n"


def say(text: str, how: str = "", **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{how} !say {text}"}], **fields}


def plain(parsing: Any, body: dict[str, Any]) -> dict[str, Any]:
    response = parsing.client.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    return response.json()


def streamed(parsing: Any, body: dict[str, Any]) -> list[dict[str, Any]]:
    return events(parsing.client.post("/v1/chat/completions", json={**body, "stream": True}))


def test_a_plain_answer_holds_reasoning_text_and_calls(parsing: Any) -> None:
    body = plain(parsing, say(THOUGHT + "Well. " + CALL, tools=[TOOL]))
    choice = body["choices"][0]
    message = choice["message"]
    assert message["reasoning"] == message["reasoning_content"] == "hm, so"
    assert message["content"] == "Well."
    (call,) = message["tool_calls"]
    assert call["type"] == "function" and call["id"].startswith("call_")
    assert call["function"] == {"name": "f", "arguments": '{"a": 1}'}
    assert choice["finish_reason"] == "tool_calls"


def test_content_is_null_when_there_are_only_calls_and_the_key_is_absent_when_there_are_none(parsing: Any) -> None:
    assert plain(parsing, say(CALL, tools=[TOOL]))["choices"][0]["message"]["content"] is None
    message = plain(parsing, say("No.", tools=[TOOL]))["choices"][0]["message"]
    assert message["content"] == "No." and "tool_calls" not in message


def test_deltas_say_id_and_name_once_and_arguments_in_pieces(parsing: Any) -> None:
    chunks = streamed(parsing, say(THOUGHT + "Well. " + CALL + CALL, "!bits", tools=[TOOL]))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[-1] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert sum("role" in delta for delta in deltas) == 1
    calls = [one for delta in deltas for one in delta.get("tool_calls", [])]
    starts = [one for one in calls if "id" in one]
    assert [one["index"] for one in starts] == [0, 1] and starts[0]["id"] != starts[1]["id"]
    assert all(one["type"] == "function" and one["function"] == {"name": "f", "arguments": ""} for one in starts)
    rest = [one for one in calls if "id" not in one]
    assert all(set(one) == {"index", "function"} and set(one["function"]) == {"arguments"} for one in rest)
    for index in (0, 1):
        written = "".join(one["function"]["arguments"] for one in rest if one["index"] == index)
        assert json.loads(written) == {"a": 1}
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "hm, so"
    assert all(delta["reasoning"] == delta["reasoning_content"] for delta in deltas if "reasoning" in delta)


TEXTS = [
    "Just text.\n",
    CALL,
    "Look: " + CALL + "\n" + CALL + "done",
    THOUGHT + "Yes",
    THOUGHT + CALL,
    "<think>never",
    "<tool_call>no",
]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("how", ["", "!bits", "!bits !inside"])
def test_streamed_equals_plain_with_the_clients_own_accumulator(parsing: Any, text: str, how: str) -> None:
    with openai.OpenAI(base_url=parsing.url + "/v1", api_key="x", max_retries=0) as client:
        fields: Any = {"model": "demo", "tools": [TOOL], **say(text, how)}
        whole = client.chat.completions.create(**fields)
        with client.chat.completions.stream(**fields, stream_options={"include_usage": True}) as stream:
            final = stream.get_final_completion()
        shown = [
            (
                one.choices[0].message.content or "",
                [(call.function.name, call.function.arguments) for call in one.choices[0].message.tool_calls or []],
                one.choices[0].finish_reason,
                one.usage,
            )
            for one in (whole, final)
        ]
    assert shown[0] == shown[1]


def test_the_markers_stay_in_the_text_only_for_what_is_parsed(parsing: Any) -> None:
    def sent(**fields: Any) -> list[str]:
        plain(parsing, say("x", **fields))
        return parsing.fake.generates[-1].text.shown_specials

    assert sent(tools=[TOOL]) == ["</think>", "</tool_call>", "<think>", "<tool_call>"]
    assert sent() == sent(tools=[TOOL], tool_choice="none") == ["</think>", "<think>"]
    parsing.client.post("/v1/completions", json={"prompt": "!say x"})
    assert parsing.fake.generates[-1].text.shown_specials == []


def test_tool_choice_none_leaves_calls_in_the_text_and_tools_out_of_the_prompt(parsing: Any) -> None:
    message = plain(parsing, say(CALL, tools=[TOOL], tool_choice="none"))["choices"][0]["message"]
    assert message["content"] == CALL and "tool_calls" not in message
    assert parsing.fake.generates[-1].prompt.tools_json == b""
    plain(parsing, say(CALL, tools=[TOOL], tool_choice="auto"))
    assert json.loads(parsing.fake.generates[-1].prompt.tools_json) == [TOOL]


def test_only_the_first_call_counts_without_parallel_tool_calls(parsing: Any) -> None:
    body = say(CALL + CALL, "!bits", tools=[TOOL], parallel_tool_calls=False)
    assert len(plain(parsing, body)["choices"][0]["message"]["tool_calls"]) == 1
    calls = [one for chunk in streamed(parsing, body) for one in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert {one["index"] for one in calls} == {0}


def test_reasoning_can_be_left_out_and_its_tokens_are_counted_all_the_same(parsing: Any) -> None:
    body = say(THOUGHT + "Yes", "!bits", include_reasoning=False)
    whole = plain(parsing, body)
    assert whole["choices"][0]["message"]["reasoning"] is None
    assert whole["choices"][0]["message"]["content"] == "Yes"
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3
    chunks = streamed(parsing, {**body, "stream_options": {"include_usage": True}})
    assert not any("reasoning" in chunk["choices"][0]["delta"] for chunk in chunks[:-1])
    assert chunks[-1]["usage"] == whole["usage"]


def test_history_with_calls_and_results_goes_to_the_template_as_it_came(parsing: Any) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "hm"},
        {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "!say 4"}]},
    ]
    assert plain(parsing, {"messages": messages})["choices"][0]["message"]["content"] == "4"
    assert json.loads(parsing.fake.generates[-1].prompt.messages_json) == messages


def test_logprobs_come_with_every_token_also_those_of_calls(parsing: Any) -> None:
    body = say(CALL, "!bits", tools=[TOOL], logprobs=True, top_logprobs=1)
    whole = plain(parsing, body)
    chunks = streamed(parsing, body)
    entries = [one for chunk in chunks for one in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert entries == whole["choices"][0]["logprobs"]["content"]
    assert len(entries) == whole["usage"]["completion_tokens"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": {"type": "custom"}}, "tool_choice"),
        ({"tools": [TOOL], "tool_choice": "required", "structured_outputs": {"json_object": True}}, "tool_choice"),
        ({"tools": []}, "tools"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [TOOL] * 129}, "tools"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_choice_that_cannot_be_is_refused_before_any_header(
    parsing: Any, fields: dict[str, Any], param: str, stream: bool
) -> None:
    response = parsing.client.post("/v1/chat/completions", json=say("x", stream=stream, **fields))
    assert response.status_code == 400 and error_of(response)["param"] == param


def test_a_forced_call_travels_as_a_constraint_in_the_models_own_markers(parsing: Any) -> None:
    def sent(**fields: Any) -> dict[str, Any] | None:
        plain(parsing, say(CALL, **fields))
        constraint = parsing.fake.generates[-1].constraint
        return None if constraint is None else json.loads(constraint.body)["format"]

    other = {"type": "function", "function": {"name": "g"}}
    required = sent(tools=[TOOL, other], tool_choice="required")
    assert required is not None and not required["stop_after_first"] and required["at_least_one"]
    f, g = required["tags"]
    assert f["begin"] == '<tool_call>\n{"name": "f", "arguments": ' and f["end"] == "}\n</tool_call>"
    assert f["content"]["json_schema"] == PARAMETERS and g["content"]["json_schema"] == {"type": "object"}
    named = sent(tools=[TOOL, other], tool_choice={"type": "function", "function": {"name": "g"}})
    assert named is not None and named["tags"] == [g] and named["stop_after_first"]
    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}
    lazy = sent(tools=[strict, other])
    assert lazy is not None and (lazy["type"], lazy["triggers"]) == ("triggered_tags", ["<tool_call>"])
    assert [tag["content"]["json_schema"] for tag in lazy["tags"]] == [PARAMETERS, {"type": "object"}]
    assert sent(tools=[TOOL]) is None and sent(tools=[strict], tool_choice="none") is None


def test_a_format_of_the_text_leaves_calls_possible_and_forced_ones_alone(parsing: Any) -> None:
    schema = {"enum": [1, 2]}
    json_text = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}

    def sent(**fields: Any) -> Any:
        plain(parsing, say(CALL, response_format=json_text, **fields))
        return parsing.fake.generates[-1].constraint

    strict = {"type": "function", "function": {**TOOL["function"], "strict": True}}
    followed = {"type": "json_schema", "json_schema": PARAMETERS}
    for tool, content in ((TOOL, {"type": "any_text"}), (strict, followed)):
        either = sent(tools=[tool])
        assert either.field == "response_format"
        text, calls = json.loads(either.body)["format"]["elements"]
        assert text == {"type": "json_schema", "json_schema": schema}
        assert calls["at_least_one"] and calls["tags"][0]["content"] == content
    forced = sent(tools=[strict], tool_choice="required")
    assert forced.field == "tool_choice" and json.loads(forced.body)["format"]["type"] == "tags_with_separator"
    assert sent(tools=[strict], tool_choice="none").kind == "json"
    outputs = {"structured_outputs": {"json": schema}, "tools": [strict]}
    refused = parsing.client.post("/v1/chat/completions", json=say(CALL, **outputs))
    assert refused.status_code == 400 and "cannot both be" in refused.json()["error"]["message"]


def test_a_named_call_ends_with_stop_and_a_required_one_with_tool_calls(parsing: Any) -> None:
    named = {"type": "function", "function": {"name": "f"}}
    for choice, reason in (("required", "tool_calls"), (named, "stop")):
        body = say(CALL, "!bits", tools=[TOOL], tool_choice=choice)
        answer = plain(parsing, body)["choices"][0]
        assert answer["finish_reason"] == reason and len(answer["message"]["tool_calls"]) == 1
        assert streamed(parsing, body)[-1]["choices"][0]["finish_reason"] == reason


def test_several_choices_are_parsed_each_for_itself(parsing: Any) -> None:
    body = say("Well. " + CALL, "!bits", tools=[TOOL], n=2)
    ids = [choice["message"]["tool_calls"][0]["id"] for choice in plain(parsing, body)["choices"]]
    assert len(set(ids)) == 2
    chunks = streamed(parsing, body)
    for index in (0, 1):
        text = "".join(
            c["delta"].get("content", "") for chunk in chunks for c in chunk["choices"] if c["index"] == index
        )
        assert text == "Well."


def test_without_formats_all_of_it_is_text(frontend: Any) -> None:
    response: httpx.Response = frontend.client.post("/v1/chat/completions", json=say(THOUGHT + CALL, tools=[TOOL]))
    assert response.json()["choices"][0]["message"]["content"] == THOUGHT + CALL
