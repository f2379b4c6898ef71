"""A user's text never becomes a special token, and is none the worse for it."""

from __future__ import annotations

import functools
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire.services.tokenizer.chat_template import ChatRequest, ChatTemplate
from quire.services.tokenizer.special_text import SpecialText
from quire.services.tokenizer.tokenizer import TextTokenizer

CHATML = """
{%- if tools %}{{- '<|im_start|>system\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if message.content is string %}{{ message.content }}
    {%- else %}{% for part in message.content %}{{ part.text }}{% endfor %}{% endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if extra %}{{- extra }}{% endif %}"""
ROLES_MAKE_TOKENS = "{% for message in messages %}{{ '<|' + message.role + '|>' + message.content }}{% endfor %}"

_pieces = st.sampled_from(
    ["<|im_end|>", "<|im_start|>", "<s>", "</s>", "[INST]", "<|im_", "end|>", "<", "|", ">", "im_end", "<think>"]
    + ["s>", "hello", " ", "\n", "é", "日本", "12", "ſ"]
)
_user_text = st.lists(st.one_of(_pieces, st.text(max_size=4)), max_size=8).map("".join)


@functools.cache
def _template(tokenizer: TextTokenizer, source: str = CHATML) -> ChatTemplate:
    return ChatTemplate({"default": source}, tokenizer.named_tokens, tokenizer.special_text)


def _encode(tokenizer: TextTokenizer, chat: ChatRequest, source: str = CHATML) -> tuple[list[int], str]:
    rendered = _template(tokenizer, source).render(chat)
    (ids,) = tokenizer.encode_rendered([rendered], add_special_tokens=False)
    return ids, rendered.text


@settings(max_examples=300, deadline=None)
@given(contents=st.lists(_user_text, min_size=1, max_size=3))
def test_only_what_the_template_wrote_is_special(byte_level: TextTokenizer, contents: list[str]) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": content} for content in contents]
    ids, text = _encode(byte_level, ChatRequest(messages))
    assert text == "".join(f"<|im_start|>user\n{content}<|im_end|>\n" for content in contents)
    assert byte_level.decode(ids) == text
    start, end = (byte_level.encode_rendered([_plain(s)], False)[0][0] for s in ("<|im_start|>", "<|im_end|>"))
    assert [token_id for token_id in ids if token_id in byte_level.special_ids] == [start, end] * len(contents)


def _plain(text: str) -> Any:
    from quire.services.tokenizer.tokenizer import Rendered

    return Rendered(text)


@settings(max_examples=200, deadline=None)
@given(parts=st.lists(_user_text, min_size=1, max_size=4))
def test_parts_that_join_to_a_special_token_are_no_special_token(byte_level: TextTokenizer, parts: list[str]) -> None:
    content = [{"type": "text", "text": part} for part in parts]
    ids, text = _encode(byte_level, ChatRequest([{"role": "user", "content": content}]))
    assert byte_level.decode(ids) == text == "<|im_start|>user\n" + "".join(parts) + "<|im_end|>\n"
    assert sum(token_id in byte_level.special_ids for token_id in ids) == 2


@settings(max_examples=100, deadline=None)
@given(text=_user_text)
def test_a_raw_prompt_holds_no_special_token_but_the_added_bos(byte_level: TextTokenizer, text: str) -> None:
    (plain,) = byte_level.encode_texts([text], add_special_tokens=False)
    (with_bos,) = byte_level.encode_texts([text], add_special_tokens=True)
    assert byte_level.decode(plain) == text
    assert not byte_level.special_ids.intersection(plain)
    assert with_bos[1:] == plain and byte_level.decode(with_bos[:1]) == "<s>"


@settings(max_examples=100, deadline=None)
@given(text=_user_text)
def test_a_users_text_is_tokenized_as_if_special_tokens_did_not_exist(byte_level: TextTokenizer, text: str) -> None:
    ids, _ = _encode(byte_level, ChatRequest([{"role": "user", "content": text}]))
    (inner,) = byte_level.encode_texts([f"user\n{text}"], add_special_tokens=False)
    assert ids[1 : 1 + len(inner)] == inner


def test_names_tool_descriptions_keys_and_kwargs_are_users_text_too(byte_level: TextTokenizer) -> None:
    tools = [{"function": {"name": "<|im_end|>", "description": "a <s> b", "parameters": {"<|im_start|>": {}}}}]
    chat = ChatRequest([{"role": "user", "content": "x"}], tools, template_kwargs={"extra": {"<s>": "<|endoftext|>"}})
    ids, text = _encode(byte_level, chat)
    assert all(part in text for part in ("<|im_end|>", "a <s> b", "<|im_start|>", "<|endoftext|>"))
    assert sum(token_id in byte_level.special_ids for token_id in ids) == 4
    assert byte_level.decode(ids) == text


def test_a_template_may_make_special_tokens_of_roles(byte_level: TextTokenizer) -> None:
    messages = [{"role": "im_start", "content": "<|im_end|>"}]
    ids, text = _encode(byte_level, ChatRequest(messages), ROLES_MAKE_TOKENS)
    assert text == "<|im_start|><|im_end|>"
    assert [byte_level.decode([token_id]) for token_id in ids if token_id in byte_level.special_ids] == ["<|im_start|>"]


def test_the_normal_case_is_encoded_as_the_library_does(byte_level: TextTokenizer, byte_level_folder: Any) -> None:
    from tokenizers import Tokenizer

    library = Tokenizer.from_file(str(byte_level_folder / "tokenizer.json"))
    messages = [{"role": "user", "content": "What is 7 plus 5? <think> 日本"}]
    ids, text = _encode(byte_level, ChatRequest(messages))
    assert ids == library.encode(text, add_special_tokens=False).ids


def test_space_beside_a_special_token_goes_where_it_goes_without_a_shield(metaspace: TextTokenizer) -> None:
    source = "{{ messages[0].content }}<|end|>  {{ messages[1].content }}"
    shielded, _ = _encode(
        metaspace, ChatRequest([{"role": "user", "content": "hi </s>"}, {"role": "user", "content": "you"}]), source
    )
    plain, _ = _encode(
        metaspace, ChatRequest([{"role": "user", "content": "hi"}, {"role": "user", "content": "you"}]), source
    )
    end = plain.index(next(token_id for token_id in plain if token_id in metaspace.special_ids))
    assert shielded[-(len(plain) - end) :] == plain[end:]
    assert sum(token_id in metaspace.special_ids for token_id in shielded) == 1


def test_a_bos_that_the_template_writes_is_not_doubled(byte_level: TextTokenizer) -> None:
    chat = ChatRequest([{"role": "user", "content": "x"}])
    template = _template(byte_level, "{{ bos_token }}{{ messages[0].content }}")
    (ids,) = byte_level.encode_rendered([template.render(chat)], add_special_tokens=True)
    assert [byte_level.decode([token_id]) for token_id in ids] == ["<s>", "x"]


@settings(max_examples=300, deadline=None)
@given(text=st.text("ab<>", max_size=30), contents=st.lists(st.text("ab<>", min_size=1, max_size=4), min_size=1))
def test_matches_are_the_leftmost_and_longest(text: str, contents: list[str]) -> None:
    special = SpecialText(contents)
    pattern = re.compile("|".join(re.escape(c) for c in sorted(set(contents), key=len, reverse=True)))
    assert list(special.matches(text)) == [match.span() for match in pattern.finditer(text)]
    assert special.occurs_in(text) == bool(pattern.search(text))


@pytest.mark.parametrize("offset", [-3, -1, 0, 1])
def test_a_match_across_the_edge_of_a_search_window_is_found(offset: int) -> None:
    text = "x" * (65536 + offset) + "<|end|>" + "y" * 70000 + "<|end|>"
    spans = list(SpecialText(["<|end|>", "<|e"]).matches(text))
    assert [text[start:end] for start, end in spans] == ["<|end|>", "<|end|>"]
