"""langchain, llama-index, litellm and instructor on openai 2: chat, stream, tools, structured answers."""

import os
from typing import Annotated, Literal

import instructor
import litellm
import openai
import pytest
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAI
from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel, Field

URL = os.environ["QUIRE_URL"] + "/v1"
SPELL = "Spell quire"


class Person(BaseModel):
    """Bounded, since the demo model would go on for ever."""

    name: Literal["Ada", "Bob"]
    age: Annotated[int, Field(ge=1, le=99)]


@tool
def get_weather(city: Literal["Paris", "Rome"]) -> str:
    """Get the weather of a city."""
    return f"sunny in {city}"


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
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.content == answer.content
    assert total.usage_metadata["output_tokens"] == answer.usage_metadata["output_tokens"]


@pytest.mark.parametrize("choice", [None, "any", "get_weather"])
def test_langchain_calls_tools_plain_and_streamed(model, choice):
    chat = ChatOpenAI(base_url=URL, model=model, temperature=0, max_tokens=200, max_retries=0)
    bound = chat.bind_tools([get_weather], **({"tool_choice": choice} if choice else {}))
    (call,) = bound.invoke("What is the weather in Paris?").tool_calls[:1]
    assert call["name"] == "get_weather" and call["args"]["city"] in ("Paris", "Rome")
    chunks = list(bound.stream("What is the weather in Paris?"))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.tool_calls[0]["args"] == call["args"]


def test_langchain_gets_structured_answers_and_completions(model):
    chat = ChatOpenAI(base_url=URL, model=model, temperature=0, max_tokens=200, max_retries=0)
    assert isinstance(chat.with_structured_output(Person).invoke("A person, please"), Person)
    text = OpenAI(base_url=URL, model=model, temperature=0, max_tokens=8, max_retries=0).invoke("1, 2, 3,")
    assert "4" in text


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


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
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
