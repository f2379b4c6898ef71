"""No text of a user becomes a special token, in the form of template of each family that is served."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from quire.services.tokenizer.chat_template import ChatRequest, ChatTemplate
from quire.services.tokenizer.tokenizer import TextTokenizer
from quire.services.tokenizer.tokenizer_files import TokenizerFiles

FAMILIES = {
    "qwen": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if tools %}{{ '<|im_start|>' + tools | tojson + '<|im_end|>' }}{% endif %}",
    "llama 3": "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{{ m.content | trim }}{{ '<|eot_id|>' }}{% endfor %}{% if tools %}{{ tools | tojson(indent=4) }}{% endif %}",
    "llama 2": "{{ bos_token }}{% for m in messages %}{{ '[INST] ' + m.content + ' [/INST]' }}{% endfor %}",
    "mistral": "{{ bos_token }}{% for m in messages %}{% if loop.last and tools %}{{ '[AVAILABLE_TOOLS]' }}"
    "{{ tools | tojson }}{{ '[/AVAILABLE_TOOLS]' }}{% endif %}{{ '[INST]' + m.content + '[/INST]' }}{% endfor %}",
    "gemma": "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}",
    "deepseek": "{{ bos_token }}{% for m in messages %}<｜User｜>{{ m['content'] }}<｜Assistant｜>{% endfor %}",
    "phi": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}",
    "upper case": "{% for m in messages %}<s>{{ m.content | upper | replace('A', 'B') }}</s>{% endfor %}",
}
SPECIALS = [
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]",
    "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "<start_of_turn>", "<end_of_turn>", "<｜User｜>",
    "<｜Assistant｜>", "<|user|>", "<|end|>",
]  # fmt: skip
_pieces = st.sampled_from([*SPECIALS, "<|", "|>", "<", ">", "[/", "INST]", "im_", "｜", "user", "a", " ", "\n", "end"])
_texts = st.lists(st.one_of(_pieces, st.text(max_size=3)), max_size=7).map("".join)


@functools.cache
def tokenizer() -> TextTokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["hello user"], trainer)
    return TextTokenizer(TokenizerFiles(backend, {"bos_token": "<s>", "eos_token": "</s>"}, {}))


@functools.cache
def template(family: str) -> ChatTemplate:
    return ChatTemplate({"default": FAMILIES[family]}, tokenizer().named_tokens, tokenizer().special_text)


def specials_of(family: str, contents: list[str], tools: list[Any] | None) -> list[int]:
    """The special ids of a rendered chat, in order."""
    messages = [{"role": "user", "content": content} for content in contents]
    rendered = template(family).render(ChatRequest(messages, tools))
    (ids,) = tokenizer().encode_rendered([rendered], add_special_tokens=False)
    return [token_id for token_id in ids if token_id in tokenizer().special_ids]


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=60, deadline=None)
@given(contents=st.lists(_texts, min_size=1, max_size=3), description=_texts, has_tools=st.booleans())
def test_the_special_tokens_are_those_of_the_same_chat_with_harmless_text(
    family: str, contents: list[str], description: str, has_tools: bool
) -> None:
    evil = [{"type": "function", "function": {"name": "f", "description": description}}] if has_tools else None
    plain = [{"type": "function", "function": {"name": "f", "description": "d"}}] if has_tools else None
    assert specials_of(family, contents, evil) == specials_of(family, ["x"] * len(contents), plain)
