"""Chat templates: equal to transformers' rendering, and what transformers does not do."""

from __future__ import annotations

import datetime
import json
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from quire.services.tokenizer.chat_template import ChatRequest, ChatTemplate
from quire.services.tokenizer.special_text import SpecialText
from quire.shared.errors import ApiError

NAMED_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""

INST = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant.') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + message['content'] | trim + ' [/INST]' }}
    {%- else %}
        {{- ' ' + message['content'] | trim + ' ' + eos_token }}
    {%- endif %}
{%- endfor %}"""

HEADERS = """{{- bos_token }}
{%- set ns = namespace(seen=0) %}
{%- if tools %}
    {{- '<|header|>system<|/header|>\n\nTools:\n' }}
    {%- for tool in tools %}
        {{- tool | tojson(indent=4) + '\n' }}
    {%- endfor %}
    {{- 'Today: ' + strftime_now('%Y') + '<|eot|>' }}
{%- endif %}
{%- for message in messages %}
    {%- set ns.seen = ns.seen + 1 %}
    {%- if message.role == 'tool' %}
        {{- '<|header|>ipython<|/header|>\n\n' + message.content | tojson + '<|eot|>' }}
        {%- continue %}
    {%- endif %}
    {{- '<|header|>' + message.role + '<|/header|>\n\n' }}
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- for call in message.tool_calls %}
            {{- '{"name": "' + call.function.name + '", "parameters": {' }}
            {%- for key, value in call.function.arguments | items %}
                {{- '"' + key + '": ' + value | tojson }}{{ ', ' if not loop.last }}
            {%- endfor %}
            {{- '}}' }}
        {%- endfor %}
    {%- else %}
        {% generation %}{{- message.content | trim }}{% endgeneration %}
    {%- endif %}
    {{- '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|header|>assistant<|/header|>\n\n' }}{% endif %}
{%- if think is defined and not think %}{{- '<think>\n\n</think>' }}{% endif %}"""

PARTS = """
{%- for message in messages %}
    {{- message.role + ': ' }}
    {%- for part in message.content %}{{ part.text }}{% endfor %}
    {{- '\n' }}
{%- endfor %}"""

TEMPLATES = {"chatml": CHATML, "inst": INST, "headers": HEADERS}

TALK = [
    {"role": "system", "content": "Be brief.  "},
    {"role": "user", "content": " What is <b>7</b> & 5? 日本 "},
    {"role": "assistant", "content": "12"},
    {"role": "user", "content": 'Say "é"'},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds ‘a’ & <b>",
            "parameters": {"type": "object", "properties": {}},
        },
    }
]
TOOL_TALK = [
    {"role": "user", "content": "add"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 7, "b": "<5>"}}}],
    },
    {"role": "tool", "content": '{"sum": 12}'},
]


def _template(source: str, specials: list[str] | None = None) -> ChatTemplate:
    return ChatTemplate({"default": source}, NAMED_TOKENS, SpecialText(specials or []))


def _transformers(source: str, messages: list[dict[str, Any]], **kwargs: Any) -> str:
    ((text,), _) = render_jinja_template([messages], chat_template=source, **NAMED_TOKENS, **kwargs)
    return text


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("opens", [True, False])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_talks_render_as_in_transformers(name: str, opens: bool, length: int) -> None:
    source = TEMPLATES[name]
    messages = TALK[:length] if length > 1 else TALK[1:2]
    rendered = _template(source).render(ChatRequest(messages, add_generation_prompt=opens))
    assert rendered.text == _transformers(source, messages, add_generation_prompt=opens)


def test_tools_and_template_kwargs_render_as_in_transformers() -> None:
    chat = ChatRequest(TOOL_TALK, TOOLS, template_kwargs={"think": False})
    expected = _transformers(HEADERS, TOOL_TALK, tools=TOOLS, add_generation_prompt=True, think=False)
    assert _template(HEADERS).render(chat).text == expected
    assert str(datetime.datetime.now().year) in expected


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("ending", ["12 is ", "twelve", "x\n"])
def test_a_continued_final_message_renders_as_in_transformers(name: str, ending: str) -> None:
    source = TEMPLATES[name]
    messages = [TALK[1], {"role": "assistant", "content": ending}]
    chat = ChatRequest(messages, add_generation_prompt=False, continue_final_message=True)
    assert _template(source).render(chat).text == _transformers(source, messages, continue_final_message=True)


def test_the_first_message_that_equals_the_last_is_not_taken_for_it() -> None:
    messages = [{"role": "user", "content": "same"}, {"role": "assistant", "content": "same"}]
    chat = ChatRequest(messages, add_generation_prompt=False, continue_final_message=True)
    expected = "<|im_start|>user\nsame<|im_end|>\n<|im_start|>assistant\nsame"
    assert _template(CHATML).render(chat).text == expected


def test_arguments_sent_as_json_text_reach_the_template_as_an_object() -> None:
    as_text = json.loads(json.dumps(TOOL_TALK))
    function = as_text[1]["tool_calls"][0]["function"]
    function["arguments"] = json.dumps(function["arguments"])
    template = _template(HEADERS)
    assert template.render(ChatRequest(as_text)).text == template.render(ChatRequest(TOOL_TALK)).text


def test_content_parts_become_text_for_a_template_that_wants_text() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    rendered = _template(CHATML).render(ChatRequest([{"role": "user", "content": parts}], add_generation_prompt=False))
    assert rendered.text == "<|im_start|>user\none\ntwo<|im_end|>\n"


def test_text_becomes_content_parts_for_a_template_that_wants_parts() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "user", "content": [{"type": "text", "text": "ho"}]}]
    assert _template(PARTS).render(ChatRequest(messages)).text == "user: hi\nuser: ho\n"


def test_null_content_is_no_text() -> None:
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": []}]
    assert "None" not in _template(CHATML).render(ChatRequest(messages)).text


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_reaches_the_template_under_each_of_its_names(name: str) -> None:
    source = "{{ messages[0].reasoning_content }}|{{ messages[0].thinking }}"
    message = {"role": "assistant", "content": "x", name: "because"}
    assert _template(source).render(ChatRequest([message])).text == "because|because"


def test_the_tool_use_template_is_taken_when_there_are_tools() -> None:
    sources = {"default": "plain", "tool_use": "{{ tools | length }} tools"}
    template = ChatTemplate(sources, {}, SpecialText([]))
    messages = [{"role": "user", "content": "x"}]
    assert template.render(ChatRequest(messages)).text == "plain"
    assert template.render(ChatRequest(messages, TOOLS)).text == "1 tools"


def test_documents_reach_the_template() -> None:
    source = "{% for document in documents %}{{ document.title }}{% endfor %}"
    chat = ChatRequest([{"role": "user", "content": "x"}], documents=[{"title": "one"}, {"title": "two"}])
    assert _template(source).render(chat).text == "onetwo"


def test_a_templates_own_sentence_is_the_error() -> None:
    with pytest.raises(ApiError) as caught:
        _template(INST).render(ChatRequest([{"role": "assistant", "content": "x"}]))
    assert (caught.value.status, caught.value.message) == (400, "Roles must alternate user/assistant.")


@pytest.mark.parametrize(
    "source",
    [
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].nothing.more }}",
        "{{ messages[9].content }}",
        "{{ 1 // 0 }}",
        "{{ namespace | tojson }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_fails_is_a_400_in_our_words(source: str) -> None:
    with pytest.raises(ApiError) as caught:
        _template(source).render(ChatRequest([{"role": "user", "content": "x"}]))
    assert (caught.value.status, caught.value.code) == (400, "chat_template_error")
    assert "chat template cannot render" in caught.value.message


def test_a_template_without_end_is_ended() -> None:
    source = "{% for i in range(90000) %}{% for j in range(90000) %}{{ 'x' * 1000 }}{% endfor %}{% endfor %}"
    with pytest.raises(ApiError) as caught:
        _template(source).render(ChatRequest([{"role": "user", "content": "x"}]))
    assert caught.value.code == "chat_template_error"


def test_what_the_template_would_leave_out_in_silence_is_refused() -> None:
    chat = ChatRequest([{"role": "user", "content": "x"}], documents=[{"title": "one"}])
    with pytest.raises(ApiError, match="takes none") as caught:
        _template(CHATML).render(chat)
    assert caught.value.param == "documents"
    with pytest.raises(ApiError, match="enable_thinkng") as caught:
        _template(CHATML).render(ChatRequest(chat.messages, template_kwargs={"enable_thinkng": True}))
    assert caught.value.param == "chat_template_kwargs"


@pytest.mark.parametrize("name", ["enable_thinking", "thinking", "reasoning_effort"])
def test_a_switch_of_thinking_is_taken_by_every_template(name: str) -> None:
    plain = ChatRequest([{"role": "user", "content": "x"}])
    switched = ChatRequest(plain.messages, template_kwargs={name: False})
    assert _template(CHATML).render(switched) == _template(CHATML).render(plain)


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "add_generation_prompt", "chat_template"])
def test_template_kwargs_cannot_stand_in_for_fields_of_the_request(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        _template(CHATML).render(ChatRequest([{"role": "user", "content": "x"}], template_kwargs={name: []}))
    assert caught.value.param == "chat_template_kwargs" and name in caught.value.message


def test_continuing_excludes_opening_and_needs_text() -> None:
    for messages, opens in (([{"role": "user", "content": "x"}], True), ([{"role": "user", "content": " "}], False)):
        with pytest.raises(ApiError):
            chat = ChatRequest(messages, add_generation_prompt=opens, continue_final_message=True)
            _template(CHATML).render(chat)
