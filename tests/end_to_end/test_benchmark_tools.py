"""Requests as benchmark and evaluation tools write them, byte for byte, and what those tools read of the answers.

The tools pull in whole frameworks, so their requests are here and not they: vllm bench serve, SGLang's bench_serving,
guidellm, aiperf (genai-perf), lm-eval.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from running_server import RunningServer

STORY = "Once upon a time there was a fox named Ada."
SENT = {"Authorization": "Bearer none", "Content-Type": "application/json"}
NUM_TOKENS = 24


def vllm_bench(model: str, **fields: Any) -> dict[str, Any]:
    return {
        "model": model, "prompt": STORY, "temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": NUM_TOKENS,
        "logprobs": None, "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True, **fields,
    }  # fmt: skip


def vllm_bench_chat(model: str) -> dict[str, Any]:
    return {
        "model": model, "messages": [{"role": "user", "content": [{"type": "text", "text": STORY}]}],
        "temperature": 0.0, "max_completion_tokens": NUM_TOKENS, "stream": True,
        "stream_options": {"include_usage": True}, "ignore_eos": True,
    }  # fmt: skip


def sglang_bench(model: str) -> dict[str, Any]:
    return {
        "model": model, "prompt": STORY, "temperature": 0.0, "best_of": 1, "max_tokens": NUM_TOKENS, "stream": True,
        "ignore_eos": True, "stream_options": {"include_usage": True},
    }  # fmt: skip


def guidellm(model: str) -> dict[str, Any]:
    return {
        "model": model, "messages": [{"role": "user", "content": [{"type": "text", "text": STORY}]}], "stop": None,
        "max_completion_tokens": NUM_TOKENS, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }  # fmt: skip


def guidellm_text(model: str) -> dict[str, Any]:
    return {
        "model": model, "prompt": STORY, "max_tokens": NUM_TOKENS, "ignore_eos": True, "stop": None, "stream": True,
        "stream_options": {"include_usage": True, "continuous_usage_stats": True},
    }  # fmt: skip


def aiperf(model: str) -> dict[str, Any]:
    return {
        "model": model, "messages": [{"role": "user", "name": "user", "content": STORY}], "stream": True,
        "stream_options": {"include_usage": True}, "max_completion_tokens": NUM_TOKENS, "min_tokens": NUM_TOKENS,
        "ignore_eos": True, "temperature": 0,
    }  # fmt: skip


def connected(demo: RunningServer) -> http.client.HTTPConnection:
    address = urlsplit(demo.url)
    return http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)


def ask(demo: RunningServer, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = connected(demo)
    sent = {**SENT, **{name.replace("_", "-"): value for name, value in headers.items()}}
    connection.request("GET" if body is None else "POST", path, None if body is None else json.dumps(body), sent)
    response = connection.getresponse()
    answer = (response.status, {name.lower(): value for name, value in response.getheaders()}, response.read())
    connection.close()
    return answer


def chunks_of(answer: bytes) -> Iterator[dict[str, Any]]:
    for line in answer.decode().splitlines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line[6:])


@pytest.fixture(scope="module")
def model(demo: RunningServer) -> str:
    (first, *_) = json.loads(ask(demo, "/v1/models")[2])["data"]
    assert first["root"] and first["max_model_len"] > 0  # vllm bench and litellm's proxy read these
    return first["id"]


@pytest.mark.parametrize("tool", [vllm_bench, vllm_bench_chat, sglang_bench, guidellm, guidellm_text, aiperf])
def test_a_benchmark_gets_as_many_tokens_as_it_asks_for_and_their_counts(
    demo: RunningServer, model: str, tool: Any
) -> None:
    body = tool(model)
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    status, _, answer = ask(demo, path, body)
    assert status == 200, answer
    chunks = [*chunks_of(answer)]
    # They take a chunk that has choices for tokens, and one without for the counts.
    counted = [chunk for chunk in chunks if not chunk["choices"]]
    assert [chunk["usage"]["completion_tokens"] for chunk in counted] == [NUM_TOKENS] and counted == chunks[-1:]
    assert counted[0]["usage"]["prompt_tokens"] > 5
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]
    pieces = [choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices]
    assert len([piece for piece in pieces if piece]) > NUM_TOKENS // 2  # the times between them are what is measured
    if body["stream_options"].get("continuous_usage_stats"):
        counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
        assert counts == sorted(counts)


def test_prompts_may_be_texts_ids_and_lists_of_both(demo: RunningServer, model: str) -> None:
    ids = json.loads(ask(demo, "/tokenize", {"model": model, "prompt": STORY})[2])["tokens"]
    texts = []
    for prompt, count in ((STORY, 1), ([STORY], 1), (ids, 1), ([ids], 1), ([STORY, STORY], 2), ([ids, ids], 2)):
        _, _, answer = ask(demo, "/v1/completions", vllm_bench(model, prompt=prompt, stream=False, stream_options=None))
        choices = json.loads(answer)["choices"]
        assert [choice["index"] for choice in choices] == [*range(count)]
        texts += [choice["text"] for choice in choices]
    assert len(set(texts)) == 1


def test_an_evaluation_scores_prompts_of_ids(demo: RunningServer, model: str) -> None:
    """lm-eval: loglikelihood of a continuation, several prompts at once, the echoed tokens and whether greedy."""
    ids = json.loads(ask(demo, "/tokenize", {"model": model, "prompt": STORY})[2])["tokens"]
    body = {
        "model": model, "prompt": [ids, ids[:8]], "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True,
        "temperature": 0,
    }  # fmt: skip
    choices = json.loads(ask(demo, "/v1/completions", body)[2])["choices"]
    for choice, prompt in zip(choices, (ids, ids[:8]), strict=True):
        scores = choice["logprobs"]
        assert len(scores["token_logprobs"]) == len(scores["tokens"]) == len(prompt) + 1
        assert scores["token_logprobs"][0] is None and all(score <= 0 for score in scores["token_logprobs"][1:])
        for score, top in zip(scores["token_logprobs"][1:], scores["top_logprobs"][1:], strict=True):
            assert max(top.values()) >= score


def test_a_request_id_is_on_answers_streams_and_errors(demo: RunningServer, model: str) -> None:
    for body, status in (
        (vllm_bench(model), 200),
        (vllm_bench(model, stream=False, stream_options=None), 200),
        (vllm_bench(model, temperature=9), 400),
        (vllm_bench("nobody"), 404),
    ):
        got, headers, _ = ask(demo, "/v1/completions", body, X_Request_ID="run-1:7", X_Correlation_ID="c")
        assert (got, headers["x-request-id"]) == (status, "run-1:7")


@pytest.mark.parametrize("tool", [vllm_bench, vllm_bench_chat])
def test_a_stream_is_data_alone_and_its_body_ends_with_done(demo: RunningServer, model: str, tool: Any) -> None:
    body = tool(model)
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    connection = connected(demo)
    for _ in range(2):  # the connection is of use again, so the body has ended
        connection.request("POST", path, json.dumps(body), SENT)
        lines = connection.getresponse().read().decode().split("\n")
        assert lines[-3:] == ["data: [DONE]", "", ""]
        assert all(line == "" or line.startswith(("data: ", ": ")) for line in lines)
    connection.close()


def test_a_cancelled_request_frees_its_blocks(demo: RunningServer, model: str) -> None:
    """aiperf cancels a share of its requests, streamed and whole ones."""
    for is_streamed in (True, False):
        body = {**vllm_bench(model, max_tokens=1500), "stream": is_streamed}
        body["stream_options"] = {"include_usage": True} if is_streamed else None
        connection = connected(demo)
        connection.request("POST", "/v1/completions", json.dumps(body), SENT)
        if is_streamed:
            assert connection.getresponse().readline().startswith(b"data: ")
        connection.close()
    demo.until_idle()


def test_what_benchmarks_look_at_beside_answers_is_there(demo: RunningServer) -> None:
    for path in ("/health", "/v1/models", "/version"):
        assert ask(demo, path)[0] == 200
    names = set(demo.samples())
    for name in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc"):
        assert any(sample.startswith(name) for sample in names), name
