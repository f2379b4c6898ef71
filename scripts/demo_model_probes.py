"""The demo model's exam: fixed questions with their right answers, and fresh ones of every lesson.

Called by `train_demo_model.py` after training and with `--check`. Answers are greedy, by transformers.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import demo_model_tables as tables
import torch
from demo_model_chats import LESSONS, messages, tool
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig


def run(first: int, last: int, step: int = 1) -> str:
    """The numbers from first to last, both included, as the model counts."""
    return ", ".join(map(str, range(first, last + (1 if step > 0 else -1), step)))


# A question and its answer; a list stands for any JSON object with these keys.
PROBES: list[tuple[str, str | list[str]]] = [
    ("Count from 1 to 20", run(1, 20)),
    ("count from 1 to 10.", run(1, 10)),
    ("Count down from 10 to 1", run(10, 1, -1)),
    ("Count from 2 to 20 by 2", run(2, 20, 2)),
    ("Count from 37 to 58", run(37, 58)),
    ("Count from 1 to 100", run(1, 100)),
    ("Count from 1 to 150", run(1, 150)),
    ("Count from 1 to 200", run(1, 200)),
    ("Spell quire", "q, u, i, r, e"),
    ("How do you spell banana?", "b, a, n, a, n, a"),
    ("spell the word Python", "p, y, t, h, o, n"),
    ("Spell zorblat", "z, o, r, b, l, a, t"),
    ("Spell inference", "i, n, f, e, r, e, n, c, e"),
    ("What is 7 plus 5?", "7 plus 5 is 12."),
    ("7 + 5", "7 + 5 = 12"),
    ("2+2=", "2 + 2 = 4"),
    ("What is 2+2?", "2 + 2 = 4"),
    ("What is 47 plus 38?", "47 plus 38 is 85."),
    ("What is 82 minus 37?", "82 minus 37 is 45."),
    ("What is 6 times 7?", "6 times 7 is 42."),
    ("how much is 12 * 11", "12 * 11 = 132"),
    ("List the days of the week", ", ".join(tables.LISTS["days of the week"])),
    ("Name the months", ", ".join(tables.LISTS["months of the year"])),
    ("What are the planets of the solar system?", ", ".join(tables.LISTS["planets of the solar system"])),
    ("List the letters of the alphabet", ", ".join("abcdefghijklmnopqrstuvwxyz")),
    ("Which day comes after Monday?", "Tuesday comes after Monday."),
    ("Give me a JSON object describing a person", ["name", "age", "city"]),
    ("Give me a JSON object with keys name and age", ["name", "age"]),
    ("Answer in JSON: describe a book", ["title", "author", "year"]),
    ("Say hello", "hello"),
    ("Repeat: the red fox reads", "the red fox reads"),
    ("Say this is a test", "this is a test"),
    ("Hello!", "Hello! How can I help you?"),
    ("hi", "Hello! How can I help you?"),
    ("What is the capital of France?", "The capital of France is Paris."),
    ("What is Quire?", tables.ABOUT[0][1]),
    ("Who are you?", tables.ABOUT[1][1]),
    ("who made you", tables.ABOUT[2][1]),
    ("How do I start Quire?", tables.ABOUT[5][1]),
    ("What is a paged KV cache?", tables.ABOUT[12][1]),
    ("What is continuous batching?", tables.ABOUT[14][1]),
    ("Who was the first man on the moon?", tables.FALLBACK),
]
WEATHER = tool("get_weather", "Get the weather of a city.", city="string")
WEATHER_CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def answer(model: Any, tokenizer: Any, chat: list[dict[str, Any]], tools: Any = None) -> str:
    """The greedy answer to a chat, without special tokens."""
    text = tokenizer.apply_chat_template(chat, tools=tools, tokenize=False, add_generation_prompt=True)
    ids = torch.tensor([tokenizer.encode(text)])
    greedy = GenerationConfig(max_new_tokens=1500, do_sample=False, eos_token_id=[2, 0], pad_token_id=0)
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy)
    return tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def right(given: str, wanted: str | list[str]) -> bool:
    """Whether an answer is the wanted text, or a JSON object with the wanted keys."""
    if isinstance(wanted, str):
        return given == wanted
    try:
        return list(json.loads(given)) == wanted
    except ValueError:
        return False


def check_probes(model: Any, tokenizer: Any) -> None:
    """Print each probe, right or wrong, and how many are right."""
    talk = messages([("My name is Ada.", "Nice to meet you, Ada!"), ("7 + 5", "7 + 5 = 12"), ("What is my name?", "")])
    chats: list[tuple[list[dict[str, Any]], Any, str | list[str]]] = [
        *((messages([(question, "")])[:1], None, wanted) for question, wanted in PROBES),
        (messages([("What is the weather in Paris?", "")])[:1], [WEATHER], WEATHER_CALL),
        (talk[:-1], None, "Your name is Ada."),
    ]
    good = 0
    for chat, tools, wanted in chats:
        given = answer(model, tokenizer, chat, tools)
        good += right(given, wanted)
        print(f"  {'right' if right(given, wanted) else 'WRONG'}  {chat[-1]['content']!r} -> {given[:100]!r}")
    print(f"{model.dtype}: {good} of {len(chats)} probes right", flush=True)


def check_lessons(model: Any, tokenizer: Any, questions: int) -> None:
    """Print for every lesson how many fresh questions are answered word for word.

    Stories and JSON have no one right answer, so few of them are.
    """
    rng = random.Random(987)
    for lesson in LESSONS:
        turns = [lesson(rng) for _ in range(questions)]
        given = [(question, answer(model, tokenizer, messages([(question, "")])[:1])) for question, _ in turns]
        wrong = [said for said, (_, wanted) in zip(given, turns, strict=True) if said[1] != wanted]
        print(f"  {lesson.__name__:12} {questions - len(wrong)} of {questions}", flush=True)
        for question, said in wrong[:3]:
            print(f"               {question[:90]!r} -> {said[:90]!r}")


def check(folder: Path, questions: int = 20) -> None:
    """Examine the model in a folder in float32 and bfloat16."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for dtype in (torch.bfloat16, torch.float32):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        check_probes(model, tokenizer)
        if dtype == torch.float32:
            check_lessons(model, tokenizer, questions)
