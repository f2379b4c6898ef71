"""openai 3: chat, tools, completions, responses; sync and async; plain and streamed."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Literal

import openai
import pytest
from pydantic import BaseModel


class Person(BaseModel):
    """Bounded, since the demo model would go on for ever."""

    name: Literal["Ada", "Bob"]
    age: Literal[1, 2, 3]


URL = os.environ["QUIRE_URL"] + "/v1"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]


@pytest.fixture
def client():
    with openai.OpenAI(base_url=URL, max_retries=0) as client:
        yield client


def test_models_are_listed_and_found(client):
    (model, *_) = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id


def test_a_chat_is_answered_plain_and_streamed_alike(client):
    fields = {"model": client.models.list().data[0].id, "temperature": 0}
    fields["messages"] = [{"role": "user", "content": "Spell quire"}]
    plain = client.chat.completions.create(**fields)
    with client.chat.completions.stream(**fields, stream_options={"include_usage": True}) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == plain.choices[0].message.content
    assert final.usage == plain.usage and plain._request_id


def test_tools_are_called_and_their_results_answered(client):
    fields = {"model": "", "temperature": 0, "tools": [TOOL]}
    message = client.chat.completions.create(messages=WEATHER, **fields).choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Paris"}
    events = []
    with client.chat.completions.stream(messages=WEATHER, **fields) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.done" in events and final.finish_reason == "tool_calls"
    assert final.message.tool_calls[0].function.arguments == message.tool_calls[0].function.arguments
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"degrees": 21, "sky": "sunny"}'}
    history = [*WEATHER, message, result]
    assert client.chat.completions.create(messages=history, **fields).choices[0].message.content


def test_completions_are_plain_and_streamed_alike(client):
    fields = {"model": "", "prompt": ["1, 2, 3,", "Monday,"], "temperature": 0, "max_tokens": 8, "logprobs": 1}
    plain = client.completions.create(**fields)
    texts = ["", ""]
    for chunk in client.completions.create(**fields, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in plain.choices]


def test_errors_are_the_sdks_own_classes(client):
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="nobody", messages=WEATHER)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(model="", messages=WEATHER, temperature=9, stream=True)
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.chat.completions.create(model="", messages=[{"role": "user", "content": "word " * 9000}])


def test_responses_are_made_streamed_continued_and_deleted(client):
    fields = {"model": "", "input": "Spell quire", "temperature": 0}
    plain = client.responses.create(**fields)
    with client.responses.stream(**fields) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert final.output_text == plain.output_text and kinds[-1] == "response.completed"
    assert final.usage == plain.usage
    assert client.responses.retrieve(plain.id).output_text == plain.output_text
    assert client.responses.input_items.list(plain.id).data[0].content[0].text == "Spell quire"
    again = client.responses.create(model="", input="Spell book", previous_response_id=plain.id, temperature=0)
    assert again.usage.input_tokens > plain.usage.input_tokens
    client.responses.delete(plain.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(plain.id)


def test_responses_call_tools(client):
    tool = {"type": "function", **TOOL["function"]}
    fields = {"model": "", "tools": [tool], "temperature": 0}
    first = client.responses.create(input=WEATHER, **fields)
    (call,) = [item for item in first.output if item.type == "function_call"]
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"city": "Paris"})
    result = {"type": "function_call_output", "call_id": call.call_id, "output": '{"degrees": 21, "sky": "sunny"}'}
    assert client.responses.create(input=[*WEATHER, *first.output, result], **fields).output_text
    assert client.responses.create(input=[result], previous_response_id=first.id, **fields).output_text


def test_parse_gives_models_from_chats_and_responses(client):
    question = "A person, please"
    messages = [{"role": "user", "content": question}]
    chat = client.chat.completions.parse(model="", messages=messages, response_format=Person, temperature=0)
    assert isinstance(chat.choices[0].message.parsed, Person)
    response = client.responses.parse(model="", input=question, text_format=Person, temperature=0)
    assert isinstance(response.output_parsed, Person)


def test_parse_calls_a_strict_tool_beside_a_format(client):
    class Weather(BaseModel):
        city: Literal["Paris", "Rome"]

    fields = {"tools": [openai.pydantic_function_tool(Weather, name="get_weather")], "response_format": Person}
    chat = client.chat.completions.parse(model="", messages=WEATHER, temperature=0, **fields)
    (call,) = chat.choices[0].message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)


def test_logprobs_are_of_the_text(client):
    fields = {"model": "", "messages": [{"role": "user", "content": "Spell quire"}], "temperature": 0}
    choice = client.chat.completions.create(**fields, logprobs=True, top_logprobs=3).choices[0]
    tokens = choice.logprobs.content
    assert b"".join(bytes(token.bytes) for token in tokens).decode() == choice.message.content
    assert all(len(token.top_logprobs) == 3 and token.top_logprobs[0].logprob == token.logprob for token in tokens)
    with client.chat.completions.stream(**fields, logprobs=True, top_logprobs=3) as stream:
        assert stream.get_final_completion().choices[0].logprobs == choice.logprobs


def test_the_async_client_does_the_same():
    async def run():
        async with openai.AsyncOpenAI(base_url=URL, max_retries=0) as client:
            fields = {"model": "", "temperature": 0, "messages": [{"role": "user", "content": "Count from 1 to 9"}]}
            answers = await asyncio.gather(*(client.chat.completions.create(**fields) for _ in range(8)))
            texts = {answer.choices[0].message.content for answer in answers}
            streamed = ""
            async for chunk in await client.chat.completions.create(**fields, stream=True):
                streamed += chunk.choices[0].delta.content or ""
            assert texts == {streamed}
            response = await client.responses.create(model="", input="Count from 1 to 9", temperature=0)
            assert response.output_text == streamed

    asyncio.run(run())
