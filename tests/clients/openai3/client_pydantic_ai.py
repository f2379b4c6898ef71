"""pydantic-ai: chat and Responses models; runs, streams, tools, answers as types; the vLLM provider."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import pydantic
import pytest
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.messages import ToolCallPart, ToolReturnPart
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.providers.vllm import VLLMProvider

URL = os.environ["QUIRE_URL"] + "/v1"
MODELS = {
    "chat": lambda name: OpenAIChatModel(name, provider=OpenAIProvider(base_url=URL, api_key="x")),
    "vllm": lambda name: OpenAIChatModel(name, provider=VLLMProvider(base_url=URL, api_key="x")),
    "responses": lambda name: OpenAIResponsesModel(name, provider=OpenAIProvider(base_url=URL, api_key="x")),
}
GREEDY = {"temperature": 0, "max_tokens": 200}
WEATHER = "What is the weather in Paris?"


class Person(pydantic.BaseModel):
    """Bounded, since the demo model would go on for ever."""

    name: Literal["Ada", "Bob"]
    age: Annotated[int, pydantic.Field(ge=1, le=99)]


@pytest.fixture(params=sorted(MODELS))
def model(request):
    return MODELS[request.param]("quire-demo")


def get_weather(city: Literal["Paris", "Rome"]) -> dict:
    """Get the weather of a city."""
    return {"degrees": 21, "sky": "sunny", "city": city}


def calls_of(result):
    return [part for message in result.all_messages() for part in message.parts if isinstance(part, ToolCallPart)]


def test_a_run_and_its_stream_say_the_same(model):
    agent = Agent(model, model_settings=GREEDY, instructions="Be brief.")
    plain = agent.run_sync("Spell quire")
    stream = agent.run_stream_sync("Spell quire")
    deltas = [*stream.stream_text(delta=True, debounce_by=None)]
    assert "".join(deltas) == plain.output and len(deltas) > 1
    for usage in (plain.usage, stream.usage):
        assert usage.input_tokens > 0 and usage.output_tokens == plain.usage.output_tokens > 0
    assert plain.response.finish_reason == stream.response.finish_reason == "stop"


def test_a_conversation_goes_on(model):
    agent = Agent(model, model_settings=GREEDY)
    first = agent.run_sync("Spell quire")
    again = agent.run_sync("Spell book", message_history=first.all_messages())
    assert again.output and again.usage.input_tokens > first.usage.input_tokens


@pytest.mark.parametrize("is_streamed", [False, True])
def test_a_tool_is_called_and_its_result_answered(model, is_streamed):
    agent = Agent(model, model_settings=GREEDY, tools=[get_weather])
    if is_streamed:
        result = agent.run_stream_sync(WEATHER)
        text = "".join(result.stream_text(delta=True))
    else:
        result = agent.run_sync(WEATHER)
        text = result.output
    (call,) = calls_of(result)
    assert (call.tool_name, call.args_as_dict()) == ("get_weather", {"city": "Paris"})
    (returned,) = [
        part for message in result.all_messages() for part in message.parts if isinstance(part, ToolReturnPart)
    ]
    assert returned.tool_call_id == call.tool_call_id and text


@pytest.mark.parametrize("way", [ToolOutput, NativeOutput])
@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_answer_is_a_type(model, way, is_streamed):
    agent = Agent(model, model_settings=GREEDY, output_type=way(Person), retries=0)
    if is_streamed:
        result = agent.run_stream_sync("A person, please").get_output()
    else:
        result = agent.run_sync("A person, please").output
    assert isinstance(result, Person)


def test_an_answer_of_a_type_may_call_tools_first(model):
    agent = Agent(model, model_settings=GREEDY, tools=[get_weather], output_type=NativeOutput(Person), retries=0)
    result = agent.run_sync(WEATHER)
    assert [call.tool_name for call in calls_of(result)][:1] == ["get_weather"] and isinstance(result.output, Person)


def test_a_refusal_has_its_status_and_body(model):
    with pytest.raises(ModelHTTPError) as refused:
        Agent(model).run_sync("word " * 9000)
    assert refused.value.status_code == 400 and refused.value.body["code"] == "context_length_exceeded"
