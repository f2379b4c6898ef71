"""Tools with the demo model, which has learnt to call: through the openai SDK, streamed and whole."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from running_server import RunningServer, serving


def tool(name: str, description: str, **parameters: str) -> dict[str, Any]:
    properties = {key: {"type": kind} for key, kind in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


WEATHER = tool("get_weather", "Get the weather of a city.", city="string")
TIMER = tool("set_timer", "Set a timer.", minutes="integer")


@pytest.fixture
def client(demo: RunningServer):
    with openai.OpenAI(base_url=demo.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def ask(content: str, **fields: Any) -> dict[str, Any]:
    return {"model": "", "temperature": 0, "messages": [{"role": "user", "content": content}], **fields}


@pytest.mark.parametrize(
    ("question", "name", "arguments"),
    [
        ("What is the weather in Paris?", "get_weather", {"city": "Paris"}),
        ("Set a timer for 10 minutes", "set_timer", {"minutes": 10}),
    ],
)
def test_the_demo_model_calls_a_tool_streamed_and_whole(client, question: str, name: str, arguments: Any) -> None:
    fields = ask(question, tools=[WEATHER, TIMER])
    choice = client.chat.completions.create(**fields).choices[0]
    (call,) = choice.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (name, arguments)
    assert choice.message.content is None and choice.finish_reason == "tool_calls"
    with client.chat.completions.stream(**fields) as stream:
        final = stream.get_final_completion().choices[0]
    (streamed,) = final.message.tool_calls
    assert streamed.function.arguments == call.function.arguments and streamed.function.name == name
    assert final.finish_reason == "tool_calls"


def test_a_tools_result_goes_back_and_is_answered(client) -> None:
    fields = ask("What is the weather in Paris?", tools=[WEATHER])
    message = client.chat.completions.create(**fields).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"degrees": 21, "sky": "sunny"}'}
    fields["messages"] += [message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(**fields).choices[0]
    assert answer.finish_reason == "stop" and "Paris" in answer.message.content


def test_a_question_that_needs_no_tool_is_answered_in_text(client) -> None:
    answer = client.chat.completions.create(**ask("Spell quire", tools=[TIMER])).choices[0]
    assert answer.finish_reason == "stop" and "q" in answer.message.content and answer.message.tool_calls is None


def test_a_call_is_made_where_it_must_be_and_only_as_its_schema_says(client) -> None:
    fields = ask("Hello there!", tools=[WEATHER, TIMER], max_tokens=200)
    named = {"type": "function", "function": {"name": "set_timer"}}
    for choice, reason, names in (
        ("required", "tool_calls", {"get_weather", "set_timer"}),
        (named, "stop", {"set_timer"}),
    ):
        whole = client.chat.completions.create(**fields, tool_choice=choice, parallel_tool_calls=False).choices[0]
        (call,) = whole.message.tool_calls
        assert call.function.name in names and whole.finish_reason == reason
        arguments = json.loads(call.function.arguments)
        assert set(arguments) == ({"minutes"} if call.function.name == "set_timer" else {"city"})
        with client.chat.completions.stream(**fields, tool_choice=choice, parallel_tool_calls=False) as stream:
            final = stream.get_final_completion().choices[0]
        assert final.message.tool_calls[0].function.arguments == call.function.arguments


def test_a_strict_tool_is_called_as_its_schema_says_and_text_stays_free(client) -> None:
    strict = json.loads(json.dumps(WEATHER))
    strict["function"] |= {"strict": True}
    strict["function"]["parameters"]["properties"]["city"] = {"enum": ["Rome", "Oslo"]}
    choice = client.chat.completions.create(**ask("What is the weather in Paris?", tools=[strict])).choices[0]
    (call,) = choice.message.tool_calls
    assert json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")
    assert client.chat.completions.create(**ask("Spell quire", tools=[strict])).choices[0].finish_reason == "stop"


def test_an_answer_in_a_format_may_call_first_and_keeps_the_format_after(client) -> None:
    schema = {"type": "object", "properties": {"sky": {"enum": ["sunny", "grey"]}}, "required": ["sky"]}
    schema["additionalProperties"] = False
    json_text = {"type": "json_schema", "json_schema": {"name": "sky", "schema": schema, "strict": True}}
    strict = json.loads(json.dumps(WEATHER))
    strict["function"] |= {"strict": True}
    for tool_ in (WEATHER, strict):
        fields = ask("What is the weather in Paris?", tools=[tool_], response_format=json_text)
        choice = client.chat.completions.create(**fields).choices[0]
        (call,) = choice.message.tool_calls
        assert call.function.name == "get_weather" and choice.finish_reason == "tool_calls"
        assert [*json.loads(call.function.arguments)] == ["city"]
        result = {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 21, "sky": "sunny"}'}
        fields["messages"] += [choice.message.model_dump(exclude_none=True), result]
        # The demo model would rather say it in words.
        answer = client.chat.completions.create(**fields, tool_choice="none").choices[0]
        assert json.loads(answer.message.content)["sky"] in ("sunny", "grey") and answer.finish_reason == "stop"
        text = ask("Spell quire", tools=[TIMER], response_format=json_text, max_tokens=60)
        either = client.chat.completions.create(**text).choices[0].message
        assert either.tool_calls or json.loads(either.content)["sky"]
        forced = client.chat.completions.create(**{**text, "tools": [tool_]}, tool_choice="required").choices[0]
        assert forced.message.tool_calls


def test_a_call_that_must_be_made_is_written_in_the_form_that_is_said() -> None:
    """Arguments one by one, as XML: the demo model has never seen it."""
    timer = json.loads(json.dumps(TIMER))
    timer["function"]["parameters"]["properties"]["name"] = {"type": "string", "maxLength": 5}
    fields = ask("Hello there!", tools=[timer], tool_choice="required", parallel_tool_calls=False, max_tokens=200)
    flags = ("--tool-parser=qwen3_coder", "--max-num-seqs=4", "--kv-cache-memory=32MiB")
    with serving(*flags) as server, openai.OpenAI(base_url=server.url + "/v1", api_key="none") as other:
        (call,) = other.chat.completions.create(**fields).choices[0].message.tool_calls
        with other.chat.completions.stream(**fields) as stream:
            (streamed,) = stream.get_final_completion().choices[0].message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert isinstance(arguments.pop("minutes"), int) and len(arguments.get("name", "")) <= 5
    assert streamed.function.arguments == call.function.arguments
