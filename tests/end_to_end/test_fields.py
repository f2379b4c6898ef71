"""Fields of the served demo model that change an answer do so, streamed and plain."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from running_server import RunningServer

PROMPT = "Once upon a time there was a little"


def post(server: RunningServer, path: str, **fields: Any) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/v1/{path}", json=fields, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def complete(server: RunningServer, **fields: Any) -> dict[str, Any]:
    """Greedy unless said otherwise."""
    return post(server, "completions", **{"prompt": PROMPT, "temperature": 0, "max_tokens": 40, **fields})


def streamed_text(server: RunningServer, **fields: Any) -> str:
    body = {"prompt": PROMPT, "temperature": 0, "max_tokens": 40, "stream": True, **fields}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body, timeout=60) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events.pop() == "[DONE]"
    return "".join(choice["text"] for event in events for choice in json.loads(event)["choices"])


def text_of(answer: dict[str, Any]) -> str:
    return answer["choices"][0]["text"]


@pytest.fixture(scope="module")
def words(demo: RunningServer) -> list[str]:
    """Of the greedy answer, the ones of which it is made."""
    return text_of(complete(demo)).split()


def test_bad_words_are_not_written_streamed_or_plain(demo: RunningServer, words: list[str]) -> None:
    bad: list[str] = []
    for word in words[:3]:
        if word.isalpha() and word not in bad:
            bad.append(word)
    text = text_of(complete(demo, bad_words=bad))
    assert bad and text
    assert not set(bad) & set(text.split()), (bad, text)
    assert streamed_text(demo, bad_words=bad) == text
    assert text_of(complete(demo, bad_words=[])) == text_of(complete(demo, bad_words=None)) == text_of(complete(demo))


def test_bad_words_of_several_tokens_leave_their_beginnings(demo: RunningServer, words: list[str]) -> None:
    pair = " ".join(words[1:3])
    text = text_of(complete(demo, bad_words=[pair]))
    assert pair not in text and words[1] in text
    for choice in complete(demo, bad_words=[pair], n=3, temperature=1, seed=4)["choices"]:
        assert pair not in choice["text"]


def mean_logprob(choice: dict[str, Any]) -> float:
    logprobs = choice["logprobs"]["token_logprobs"]
    return sum(logprobs) / len(logprobs)


def test_best_of_gives_the_likeliest_answers_and_counts_all(demo: RunningServer) -> None:
    drawn = {"temperature": 1, "seed": 11, "max_tokens": 12, "prompt": [PROMPT, "The days of the week are"]}
    every = complete(demo, n=6, logprobs=0, **drawn)
    given = complete(demo, n=2, best_of=6, **drawn)
    expected = []
    for first in (0, 6):
        ranked = sorted(every["choices"][first : first + 6], key=mean_logprob, reverse=True)
        expected += [choice["text"] for choice in ranked[:2]]
    assert [choice["text"] for choice in given["choices"]] == expected
    assert [choice["index"] for choice in given["choices"]] == [0, 1, 2, 3]
    assert given["choices"][0]["logprobs"] is None, "not asked for"
    for count in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert given["usage"][count] == every["usage"][count]


def test_best_of_answers_a_chat_too(demo: RunningServer) -> None:
    fields = {"messages": [{"role": "user", "content": "Tell me a story"}], "temperature": 1, "seed": 3}
    best = post(demo, "chat/completions", best_of=4, logprobs=True, max_tokens=8, **fields)
    every = post(demo, "chat/completions", n=4, logprobs=True, max_tokens=8, **fields)

    def mean(choice: dict[str, Any]) -> float:
        return sum(entry["logprob"] for entry in choice["logprobs"]["content"]) / len(choice["logprobs"]["content"])

    (choice,) = best["choices"]
    assert choice["message"] == max(every["choices"], key=mean)["message"]
    assert best["usage"]["completion_tokens"] == every["usage"]["completion_tokens"]


def test_best_of_echoes_a_scored_prompt_with_every_answer(demo: RunningServer) -> None:
    fields = {"temperature": 1, "seed": 5, "max_tokens": 4, "echo": True, "logprobs": 1}
    answer = complete(demo, n=2, best_of=4, **fields)
    for choice in answer["choices"]:
        assert choice["text"].startswith(PROMPT)
        assert choice["logprobs"]["token_logprobs"][0] is None
        assert len(choice["logprobs"]["tokens"]) > 4
