"""langchain, llama-index, litellm and instructor on openai 2: chat, stream, tools, structured answers."""

import asyncio
import functools
import operator
import os
from typing import Annotated, Literal

import instructor
import litellm
import openai
import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from llama_index.core import PromptTemplate
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

URL = os.environ["QUIRE_URL"] + "/v1"
SPELL = "Spell quire"
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Person(BaseModel):
    """Bounded, since the demo model would go on for ever."""

    name: Literal["Ada", "Bob"]
    age: Annotated[int, Field(ge=1, le=99)]


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Get the weather of a city."""
    return '{"degrees": 21, "sky": "sunny"}'


def lookup_weather(city: Literal["Paris", "Rome"]) -> str:
    """Get the weather of a city."""
    return f"sunny in {city}"


@pytest.fixture(scope="module")
def model() -> str:
    with openai.OpenAI(base_url=URL) as client:
        return client.models.list().data[0].id


def test_langchain_chats_streams_and_counts(model):
    chat = ChatOpenAI(base_url=URL, model=model, temperature=0, stream_usage=True, max_retries=0)
    answer = chat.invoke(SPELL)
    chunks = list(chat.stream(SPELL))
    total = functools.reduce(operator.add, chunks)
    assert total.content == answer.content
    assert total.usage_metadata["output_tokens"] == answer.usage_metadata["output_tokens"]


@pytest.mark.parametrize("choice", [None, "any", "get_weather"])
def test_langchain_calls_tools_plain_and_streamed(model, choice):
    chat = ChatOpenAI(base_url=URL, model=model, temperature=0, max_tokens=200, max_retries=0)
    bound = chat.bind_tools([get_weather], **({"tool_choice": choice} if choice else {}))
    (call,) = bound.invoke("What is the weather in Paris?").tool_calls[:1]
    assert call["name"] == "get_weather" and call["args"]["city"] in ("Paris", "Rome")
    chunks = list(bound.stream("What is the weather in Paris?"))
    total = functools.reduce(operator.add, chunks)
    assert total.tool_calls[0]["args"] == call["args"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_structured_answers(model, method):
    chat = ChatOpenAI(base_url=URL, model=model, temperature=0, max_tokens=200, max_retries=0)
    assert isinstance(chat.with_structured_output(Person, method=method).invoke("A person, please"), Person)


def test_langchain_speaks_responses_and_calls_tools_there(model):
    chat = ChatOpenAI(base_url=URL, model=model, temperature=0, max_retries=0, use_responses_api=True)
    answer = chat.invoke(SPELL)
    total = functools.reduce(operator.add, chat.stream(SPELL))
    assert total.text == answer.text != ""
    assert total.usage_metadata["output_tokens"] == answer.usage_metadata["output_tokens"] > 0
    bound = chat.bind_tools([get_weather])
    question = HumanMessage("What is the weather in Paris?")
    asked = bound.invoke([question])
    (call,) = asked.tool_calls
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage) and bound.invoke([question, asked, result]).text


def test_langchain_gets_logprobs_and_completions(model):
    chat = ChatOpenAI(base_url=URL, model=model, temperature=0, max_retries=0, logprobs=True, top_logprobs=2)
    answer = chat.invoke(SPELL)
    tokens = answer.response_metadata["logprobs"]["content"]
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == answer.content
    text = OpenAI(base_url=URL, model=model, temperature=0, max_tokens=8, max_retries=0).invoke("1, 2, 3,")
    assert "4" in text


def test_langchain_knows_a_prompt_that_is_too_long(model):
    chat = ChatOpenAI(base_url=URL, model=model, max_retries=0)
    with pytest.raises(ContextOverflowError):
        chat.invoke("word " * 9000)
    with pytest.raises(ContextOverflowError):
        list(chat.stream("word " * 9000))


def test_langchain_does_the_same_asynchronously(model):
    chat = ChatOpenAI(base_url=URL, model=model, temperature=0, max_retries=0)

    async def run():
        answers = await chat.abatch([SPELL] * 4)
        streamed = "".join([chunk.content async for chunk in chat.astream(SPELL)])
        assert {answer.content for answer in answers} == {streamed}

    asyncio.run(run())


def test_llama_index_chats_streams_and_calls(model):
    llm = OpenAILike(
        api_base=URL, api_key="x", model=model, is_chat_model=True, is_function_calling_model=True, temperature=0,
        max_tokens=200, max_retries=0,
    )  # fmt: skip
    message = [ChatMessage(role="user", content=SPELL)]
    answer = llm.chat(message).message.content
    assert list(llm.stream_chat(message))[-1].message.content == answer
    weather = FunctionTool.from_defaults(lookup_weather)
    response = llm.chat_with_tools([weather], user_msg="What is the weather in Paris?", tool_required=True)
    (call,) = llm.get_tool_calls_from_response(response)[:1]
    assert call.tool_name == "lookup_weather" and set(call.tool_kwargs) == {"city"}


def test_llama_index_completes_and_answers_as_a_type(model):
    fields = {"api_base": URL, "api_key": "x", "model": model, "temperature": 0, "max_retries": 0}
    text = OpenAILike(**fields, is_chat_model=False, max_tokens=8)
    whole = text.complete("1, 2, 3,").text
    assert "4" in whole and [*text.stream_complete("1, 2, 3,")][-1].text == whole
    chat = OpenAILike(**fields, is_chat_model=True, is_function_calling_model=True, max_tokens=200)
    assert isinstance(chat.structured_predict(Person, PromptTemplate("A person, please")), Person)

    async def run():
        *_, last = [part async for part in await chat.astream_chat([ChatMessage(role="user", content=SPELL)])]
        assert last.message.content

    asyncio.run(run())


def test_litellm_chats_streams_and_maps_errors(model):
    fields = {"model": f"hosted_vllm/{model}", "api_base": URL, "api_key": "x", "temperature": 0}
    message = [{"role": "user", "content": SPELL}]
    answer = litellm.completion(messages=message, **fields).choices[0].message.content
    pieces = [
        chunk.choices[0].delta.content or "" for chunk in litellm.completion(messages=message, stream=True, **fields)
    ]
    assert "".join(pieces) == answer
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(messages=[{"role": "user", "content": "word " * 9000}], **fields)
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(messages=message, **{**fields, "model": "hosted_vllm/nobody"})


def test_litellm_calls_tools_and_completes(model):
    fields = {"model": f"openai/{model}", "api_base": URL, "api_key": "x", "temperature": 0}
    weather = {"messages": [{"role": "user", "content": "What is the weather in Paris?"}], "tools": [WEATHER]}
    plain = litellm.completion(**fields, **weather)
    chunks = [*litellm.completion(**fields, **weather, stream=True, stream_options={"include_usage": True})]
    built = litellm.stream_chunk_builder(chunks)
    for answer in (plain, built):
        (call,) = answer.choices[0].message.tool_calls
        assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Paris"}')
        assert answer.choices[0].finish_reason == "tool_calls"
    assert built.usage.completion_tokens == plain.usage.completion_tokens
    text = litellm.text_completion(
        **{**fields, "model": f"text-completion-openai/{model}"}, prompt="1, 2, 3,", max_tokens=8
    )
    assert "4" in text.choices[0].text

    async def run():
        answers = await asyncio.gather(
            *(litellm.acompletion(**fields, messages=[{"role": "user", "content": SPELL}]) for _ in range(4))
        )
        assert len({answer.choices[0].message.content for answer in answers}) == 1

    asyncio.run(run())


def test_instructor_streams_a_model_as_it_grows(model):
    with openai.OpenAI(base_url=URL, api_key="x", max_retries=0) as client:
        partial = instructor.from_openai(client, mode=instructor.Mode.TOOLS).chat.completions.create_partial(
            model=model,
            response_model=Person,
            temperature=0,
            max_tokens=200,
            messages=[{"role": "user", "content": "A person, please"}],
        )
        *_, last = partial
    assert last.name in ("Ada", "Bob") and 1 <= last.age <= 99


def test_instructor_asks_responses_too(model):
    with openai.OpenAI(base_url=URL, api_key="x", max_retries=0) as client:
        person = instructor.from_openai(client, mode=instructor.Mode.RESPONSES_TOOLS).responses.create(
            model=model, input="A person, please", response_model=Person, temperature=0, max_output_tokens=200
        )
    assert isinstance(person, Person)


@pytest.mark.parametrize(
    "mode",
    [
        instructor.Mode.TOOLS,
        instructor.Mode.TOOLS_STRICT,
        instructor.Mode.JSON_SCHEMA,
    ],
)
def test_instructor_gets_a_model(model, mode):
    with openai.OpenAI(base_url=URL, api_key="x", max_retries=0) as client:
        person = instructor.from_openai(client, mode=mode).chat.completions.create(
            model=model,
            response_model=Person,
            temperature=0,
            max_tokens=200,
            max_retries=0,
            messages=[{"role": "user", "content": "A person, please"}],
        )
    assert isinstance(person, Person)
