"""Fields of chat and text completions act on the served demo model, are refused with a sentence, or change nothing.

Which test sees which field act is in tests/services/frontend/test_every_field.py.
"""

from __future__ import annotations

import json
import math
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


HI = [{"role": "user", "content": "Count from 1 to 5"}]


def chat(server: RunningServer, **fields: Any) -> dict[str, Any]:
    return post(server, "chat/completions", **{"messages": HI, "temperature": 0, "max_tokens": 24, **fields})


def chunks(server: RunningServer, path: str, **fields: Any) -> list[dict[str, Any]]:
    with httpx.stream("POST", f"{server.url}/v1/{path}", json={"stream": True, **fields}, timeout=60) as answer:
        events = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def ids_of(answer: dict[str, Any]) -> list[int]:
    return answer["choices"][0]["token_ids"]


@pytest.mark.parametrize(
    "field", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 0}], ids=lambda field: next(iter(field))
)
def test_each_way_of_cutting_all_but_the_likeliest_gives_the_greedy_answer(
    demo: RunningServer, field: dict[str, Any]
) -> None:
    drawn = {"temperature": 1.5, "top_p": 1, "top_k": 0, "seed": 9, "return_token_ids": True}
    greedy = ids_of(complete(demo, return_token_ids=True))
    assert ids_of(complete(demo, **drawn)) != greedy
    assert ids_of(complete(demo, **{**drawn, **field})) == greedy


def test_a_seed_gives_the_same_answer_again_and_another_another(demo: RunningServer) -> None:
    first, again, other = (text_of(complete(demo, temperature=1, top_k=0, seed=seed)) for seed in (5, 5, 6))
    assert first == again != other


@pytest.mark.parametrize(
    ("field", "prompt"),
    [
        ("presence_penalty", PROMPT),  # is paid once by each token: digits that the model is sure of it leaves
        ("frequency_penalty", "1, 2, 1, 2, 1, 2, 1,"),
        ("repetition_penalty", "1, 2, 1, 2, 1, 2, 1,"),
    ],
)
def test_penalties_make_tokens_come_again_less_often(demo: RunningServer, field: str, prompt: str) -> None:
    fields = {"prompt": prompt, "ignore_eos": True, "max_tokens": 60, "return_token_ids": True}
    plain, penalised = ids_of(complete(demo, **fields)), ids_of(complete(demo, **fields, **{field: 2.0}))
    assert len(set(penalised)) > len(set(plain))


def test_lengths_are_as_asked(demo: RunningServer) -> None:
    ended = chat(demo)
    assert ended["choices"][0]["finish_reason"] == "stop"
    count = ended["usage"]["completion_tokens"]
    assert chat(demo, ignore_eos=True)["usage"]["completion_tokens"] == 24 > count
    assert chat(demo, min_tokens=count + 3)["usage"]["completion_tokens"] >= count + 3
    for name in ("max_tokens", "max_completion_tokens"):
        short = chat(demo, **{"max_tokens": 20, name: 2})
        assert (short["usage"]["completion_tokens"], short["choices"][0]["finish_reason"]) == (2, "length")


def test_stop_strings_and_stop_tokens_end_and_are_named(demo: RunningServer, words: list[str]) -> None:
    stop = words[2]
    plain = complete(demo, return_token_ids=True)
    cut, shown = complete(demo, stop=stop), complete(demo, stop=["@@", stop], include_stop_str_in_output=True)
    assert text_of(plain).startswith(text_of(cut)) and stop not in text_of(cut)
    assert text_of(shown) == text_of(cut) + stop and shown["choices"][0]["stop_reason"] == stop
    token = ids_of(plain)[4]
    ended = complete(demo, stop_token_ids=[token], return_token_ids=True)
    assert ended["choices"][0]["stop_reason"] == token
    assert ids_of(ended) == ids_of(plain)[: ids_of(plain).index(token) + 1]


def test_biases_and_allowed_tokens_rule_what_is_drawn(demo: RunningServer) -> None:
    first = ids_of(complete(demo, max_tokens=1, return_token_ids=True))[0]
    assert ids_of(complete(demo, max_tokens=1, return_token_ids=True, logit_bias={str(first): -100}))[0] != first
    assert set(ids_of(complete(demo, return_token_ids=True, logit_bias={"300": 100}))) == {300}
    drawn = ids_of(complete(demo, temperature=2, allowed_token_ids=[300, 301], return_token_ids=True))
    assert set(drawn) <= {300, 301}


def test_logprobs_say_what_was_asked(demo: RunningServer) -> None:
    entry = chat(demo, logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"][0]
    assert len(entry["top_logprobs"]) == 3 and math.isfinite(entry["logprob"])
    assert chat(demo, logprobs=True)["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
    assert chat(demo)["choices"][0]["logprobs"] is None
    of_text = complete(demo, logprobs=2)["choices"][0]["logprobs"]
    assert len(of_text["top_logprobs"][0]) == 2
    named = complete(demo, logprobs=0, return_tokens_as_token_ids=True, return_token_ids=True)["choices"][0]
    assert named["logprobs"]["tokens"] == [f"token_id:{token}" for token in named["token_ids"]]


def test_prompts_are_scored_echoed_and_told_as_ids(demo: RunningServer) -> None:
    choice = complete(demo, prompt_logprobs=1, return_token_ids=True)["choices"][0]
    assert len(choice["prompt_logprobs"]) == len(choice["prompt_token_ids"])
    assert choice["prompt_logprobs"][0] is None
    for token, entries in zip(choice["prompt_token_ids"][1:], choice["prompt_logprobs"][1:], strict=True):
        assert str(token) in entries
    scored = complete(demo, echo=True, max_tokens=0, logprobs=0)
    assert text_of(scored) == PROMPT and scored["usage"]["completion_tokens"] == 0
    of_ids = complete(demo, prompt=choice["prompt_token_ids"], echo=True)
    assert text_of(of_ids) == PROMPT + text_of(complete(demo))


def test_a_prompt_is_cut_on_the_side_that_is_asked_for(demo: RunningServer) -> None:
    fields = {"return_token_ids": True, "max_tokens": 1}
    whole = complete(demo, **fields)["choices"][0]["prompt_token_ids"]
    for side, expected in (("left", whole[-3:]), ("right", whole[:3]), (None, whole[-3:])):
        cut = complete(demo, truncate_prompt_tokens=3, truncation_side=side, **fields)
        assert cut["choices"][0]["prompt_token_ids"] == expected


def test_special_tokens_are_shown_when_asked_for(demo: RunningServer) -> None:
    fields = {"stop_token_ids": [2], "logit_bias": {"1": 100}, "max_tokens": 2}
    assert text_of(complete(demo, **fields)) == ""
    shown = complete(demo, **fields, skip_special_tokens=False)
    assert text_of(shown) == "<|im_start|><|im_start|>"


def test_streams_tell_usage_as_asked_and_hold_as_many_tokens_as_asked(demo: RunningServer) -> None:
    fields = {"prompt": PROMPT, "temperature": 0, "max_tokens": 20, "ignore_eos": True}
    bare = chunks(demo, "completions", **fields)
    assert all(not chunk.get("usage") for chunk in bare)
    *others, last = chunks(demo, "completions", stream_options={"include_usage": True}, **fields)
    assert last["usage"]["completion_tokens"] == 20 and last["choices"] == []
    assert all(chunk["usage"] is None for chunk in others)
    continuous = chunks(demo, "completions", stream_options={"continuous_usage_stats": True}, **fields)
    assert all(chunk["usage"]["prompt_tokens"] for chunk in continuous)
    steady = chunks(demo, "completions", stream_interval=8, **fields)
    texts = ["".join(choice["text"] for chunk in each for choice in chunk["choices"]) for each in (bare, steady)]
    assert texts[0] == texts[1] and len(steady) <= 5


def test_a_request_may_name_itself_and_the_header_wins(demo: RunningServer) -> None:
    url = demo.url + "/v1/completions"
    body = {"prompt": "a", "max_tokens": 1, "request_id": "from-the-body"}
    assert httpx.post(url, json=body, timeout=60).headers["x-request-id"] == "from-the-body"
    named = httpx.post(url, json=body, headers={"x-request-id": "from-the-header"}, timeout=60)
    assert named.headers["x-request-id"] == "from-the-header"
    refused = httpx.post(url, json={**body, "max_tokens": 1, "logit_bias": {"999999": 1}}, timeout=60)
    assert (refused.status_code, refused.headers["x-request-id"]) == (400, "from-the-body")


def test_a_chats_prompt_is_made_as_asked(demo: RunningServer) -> None:
    def prompt_of(**fields: Any) -> list[int]:
        return chat(demo, return_token_ids=True, max_tokens=1, **fields)["prompt_token_ids"]

    whole, without = prompt_of(), prompt_of(add_generation_prompt=False)
    assert whole[: len(without)] == without and len(whole) > len(without)
    begun = [*HI, {"role": "assistant", "content": "1, 2,"}]
    continued = prompt_of(messages=begun, continue_final_message=True)
    assert continued[: len(whole)] == whole and continued != prompt_of(messages=begun)
    assert prompt_of(reasoning_effort="low") == whole, "this model does not think"
    assert prompt_of(add_special_tokens=True) == whole, "this tokenizer adds none"


def test_a_continued_message_is_echoed_streamed_and_plain(demo: RunningServer) -> None:
    fields = {
        "messages": [*HI, {"role": "assistant", "content": "1, 2,"}], "continue_final_message": True,
        "temperature": 0, "max_tokens": 12,
    }  # fmt: skip
    plain, echoed = chat(demo, **fields), chat(demo, echo=True, **fields)
    texts = [answer["choices"][0]["message"]["content"] for answer in (plain, echoed)]
    assert texts[1] == "1, 2," + texts[0]
    deltas = [
        c["delta"].get("content", "")
        for e in chunks(demo, "chat/completions", echo=True, **fields)
        for c in e["choices"]
    ]
    assert "".join(deltas) == texts[1]
    assert chat(demo, echo=True)["choices"][0]["message"] == chat(demo)["choices"][0]["message"], "nothing goes on"


def refusal(server: RunningServer, path: str = "chat/completions", **fields: Any) -> dict[str, Any]:
    base = {"messages": HI} if path == "chat/completions" else {"prompt": PROMPT}
    answers = [
        httpx.post(f"{server.url}/v1/{path}", json={**base, **fields, "stream": stream}, timeout=60)
        for stream in (False, True)
    ]
    assert [answer.status_code for answer in answers] == [400, 400], answers[0].text
    return answers[0].json()["error"]


@pytest.mark.parametrize(
    ("fields", "instead"),
    [
        ({"functions": [{"name": "f"}]}, "tools"),
        ({"function_call": {"name": "f"}}, "tools"),
        ({"regex": "a+"}, "structured_outputs"),
        ({"grammar": "root ::= [0-9]"}, "structured_outputs"),
        ({"documents": [{"text": "a"}]}, "message"),
        ({"chat_template_kwargs": {"enable_thinkng": True}}, "enable_thinkng"),
        ({"chat_template": "x"}, "--trust-request-chat-template"),
        ({"modalities": ["text", "audio"]}, "text"),
    ],
    ids=str,
)
def test_what_would_not_act_is_refused_and_says_what_would(
    demo: RunningServer, fields: dict[str, Any], instead: str
) -> None:
    error = refusal(demo, **fields)
    assert error["param"] == next(iter(fields)) and instead in error["message"]


def test_a_suffix_is_refused_with_a_sentence(demo: RunningServer) -> None:
    error = refusal(demo, "completions", suffix="the end")
    assert error["param"] == "suffix" and "fill-in-the-middle" in error["message"]


def test_a_json_object_may_have_its_schema_beside_it(demo: RunningServer) -> None:
    schema = {"type": "object", "properties": {"a": {"const": 7}}, "required": ["a"], "additionalProperties": False}
    answer = chat(demo, response_format={"type": "json_object", "schema": schema})
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"a": 7}


def test_gateways_name_a_priority_in_a_header(demo: RunningServer) -> None:
    url, body = demo.url + "/v1/completions", {"prompt": "a", "max_tokens": 1}
    assert httpx.post(url, json=body, headers={"x-vllm-priority": "-5"}, timeout=60).status_code == 200
    refused = httpx.post(url, json=body, headers={"x-vllm-priority": "high"}, timeout=60)
    assert refused.status_code == 400 and "X-Vllm-Priority" in refused.json()["error"]["message"]


def test_what_is_unused_changes_nothing(demo: RunningServer) -> None:
    plain = chat(demo)["choices"]
    assert chat(demo, **UNUSED, modalities=["text"], an_unknown_field=[1])["choices"] == plain


UNUSED: dict[str, Any] = {
    "user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "safety_identifier": "s",
    "prompt_cache_key": "k", "prompt_cache_retention": "24h", "prompt_cache_options": {}, "session_id": "s",
    "guided_decoding_backend": "xgrammar", "vllm_xargs": {"a": 1}, "verbosity": "low",
    "prediction": {"type": "content", "content": "x"}, "moderation": {}, "web_search_options": {},
}  # fmt: skip
"""Accepted, bounded, and without an effect."""
