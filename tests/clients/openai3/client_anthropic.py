"""anthropic: messages, tools, counting; sync and async; plain and streamed."""

from __future__ import annotations

import asyncio
import os

import anthropic
import pytest

URL = os.environ["QUIRE_URL"]
TOOL = {
    "name": "get_weather",
    "description": "Get the weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
FIELDS = {"model": "", "max_tokens": 64, "extra_body": {"temperature": 0}}


@pytest.fixture
def client():
    with anthropic.Anthropic(base_url=URL, max_retries=0) as client:
        yield client


def ask(text, **fields):
    return {**FIELDS, "messages": [{"role": "user", "content": text}], **fields}


def test_a_message_is_answered_plain_and_streamed_alike(client):
    plain = client.messages.create(**ask("Spell quire", system="Be brief."))
    with client.messages.stream(**ask("Spell quire", system="Be brief.")) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == plain.content[0].text
    assert final.stop_reason == plain.stop_reason == "end_turn"
    assert final.usage.output_tokens == plain.usage.output_tokens


def test_a_tool_is_called_and_its_result_answered(client):
    fields = ask("What is the weather in Paris?", tools=[TOOL])
    plain = client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        final = stream.get_final_message()
    for message in (plain, final):
        (call,) = [block for block in message.content if block.type == "tool_use"]
        assert (call.name, call.input, message.stop_reason) == ("get_weather", {"city": "Paris"}, "tool_use")
    result = {"type": "tool_result", "tool_use_id": call.id, "content": '{"degrees": 21, "sky": "sunny"}'}
    history = [
        *fields["messages"],
        {"role": "assistant", "content": final.content},
        {"role": "user", "content": [result]},
    ]
    assert client.messages.create(**{**fields, "messages": history}).content[0].text


def test_stops_are_told_apart(client):
    assert client.messages.create(**ask("Count from 1 to 150", max_tokens=5)).stop_reason == "max_tokens"
    stopped = client.messages.create(**ask("Count from 1 to 20", stop_sequences=["9"]))
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "9")


def test_tokens_are_counted_as_they_are_used(client):
    messages = ask("Spell quire")["messages"]
    counted = client.messages.count_tokens(model="", messages=messages)
    usage = client.messages.create(**FIELDS, messages=messages).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_errors_are_the_sdks_own_classes(client):
    with pytest.raises(anthropic.NotFoundError) as missing:
        client.messages.create(**{**ask("x"), "model": "nobody"})
    assert missing.value.request_id and missing.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError, match="too long"), client.messages.stream(**ask("word " * 9000)) as _:
        pass


def test_the_async_client_does_the_same():
    async def run():
        async with anthropic.AsyncAnthropic(base_url=URL, max_retries=0) as client:
            plain = await client.messages.create(**ask("Count from 1 to 9"))
            async with client.messages.stream(**ask("Count from 1 to 9")) as stream:
                assert [text async for text in stream.text_stream] and (await stream.get_final_message()).content[
                    0
                ].text == plain.content[0].text

    asyncio.run(run())
