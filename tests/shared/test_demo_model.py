"""Tests of the bundled demo model: its files, its tokenizer, its template, and what it answers.

The answers are checked with transformers in float32, greedily, so that they say nothing of Quire's own engine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

FOLDER = Path(__file__).parents[2] / "shared" / "demo_model"
LIMIT_BYTES = 10_000_000
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TOKENIZER = transformers.AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def model() -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()


def answer(model: Any, *messages: str, tools: Any = None) -> str:
    """The greedy answer to a chat whose messages are the user's and the assistant's in turn."""
    chat = [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(messages)]
    text = TOKENIZER.apply_chat_template(chat, tools=tools, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([TOKENIZER.encode(text)])
    config = transformers.GenerationConfig(max_new_tokens=400, do_sample=False, eos_token_id=[2, 0], pad_token_id=0)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return TOKENIZER.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def test_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < LIMIT_BYTES


def test_ids_of_the_special_tokens_agree_in_all_files() -> None:
    config = json.loads((FOLDER / "config.json").read_text())
    generation = json.loads((FOLDER / "generation_config.json").read_text())
    assert TOKENIZER.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"]) == generation["eos_token_id"]
    assert config["eos_token_id"] == TOKENIZER.eos_token_id
    assert len(TOKENIZER) == config["vocab_size"]


@settings(deadline=None)
@given(st.text())
def test_any_text_comes_back_from_its_tokens(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


def test_digits_stand_alone() -> None:
    assert TOKENIZER.convert_ids_to_tokens(TOKENIZER.encode("2048")) == ["2", "0", "4", "8"]


def test_template_writes_roles_tools_and_calls() -> None:
    call = {"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sunny"},
    ]
    text = TOKENIZER.apply_chat_template(messages, tools=[WEATHER], tokenize=False, add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools\n")
    assert f"<tools>\n{json.dumps(WEATHER)}\n</tools>" in text
    assert text.endswith(
        "<|im_start|>user\nWeather?<|im_end|>\n"
        "<|im_start|>assistant\n<tool_call>\n"
        '{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\nsunny<|im_end|>\n<|im_start|>assistant\n"
    )


def test_template_takes_arguments_as_a_string() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    text = TOKENIZER.apply_chat_template([{"role": "assistant", "content": "", "tool_calls": [call]}], tokenize=False)
    assert '{"name": "add", "arguments": {"a": 1}}' in text


def test_template_leaves_the_last_message_open_to_be_continued() -> None:
    messages = [{"role": "user", "content": "Count"}, {"role": "assistant", "content": "1, 2"}]
    assert TOKENIZER.apply_chat_template(messages, tokenize=False, continue_final_message=True).endswith(
        "assistant\n1, 2"
    )


@pytest.mark.parametrize(
    ("question", "wanted"),
    [
        ("Count from 1 to 20", ", ".join(map(str, range(1, 21)))),
        ("Spell quire", "q, u, i, r, e"),
        ("What is 7 plus 5?", "7 plus 5 is 12."),
        ("List the days of the week", ", ".join(DAYS)),
    ],
)
def test_probe_is_answered_exactly(model: Any, question: str, wanted: str) -> None:
    assert answer(model, question) == wanted


@pytest.mark.parametrize(
    "question", ["Give me a JSON object describing a person", "Give me a JSON object with keys name and age"]
)
def test_asked_for_json_it_writes_an_object_that_parses(model: Any, question: str) -> None:
    value = json.loads(answer(model, question))
    assert list(value)[:2] == ["name", "age"]
    assert isinstance(value["age"], int)


def test_it_follows_a_conversation(model: Any) -> None:
    assert "Ada" in answer(model, "My name is Ada.", "Nice to meet you, Ada!", "What is my name?")


def test_it_calls_a_tool_it_is_given(model: Any) -> None:
    said = answer(model, "What is the weather in Paris?", tools=[WEATHER])
    assert said == '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
