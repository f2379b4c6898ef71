"""Beam search over HTTP, by the real processes: transformers' beams, the offline API's, whatever is lost on the way."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import torch
from running_server import RunningServer, serving
from transformers import AutoModelForCausalLM

from quire import LLM, BeamSearchParams
from quire.shared import model_files

PROMPTS = ["Once upon a time", "The capital of", "One, two,"]
BEAMS = {"use_beam_search": True, "n": 3, "length_penalty": 0.8}


def post(server: RunningServer, path: str = "/v1/completions", **body: Any) -> dict[str, Any]:
    answer = httpx.post(server.url + path, json={**BEAMS, **body}, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def reference() -> Any:
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(Path(model_files.__file__).with_name("demo_model"), dtype=torch.float32)


@pytest.mark.parametrize("fields", [{}, {"beam_width": 5, "early_stopping": True}, {"early_stopping": "never", "n": 4}])
def test_the_beams_are_those_of_transformers(demo: RunningServer, reference: Any, fields: dict[str, Any]) -> None:
    body = post(demo, prompt=PROMPTS[:2], max_tokens=12, return_token_ids=True, temperature=0, **fields)
    n = fields.get("n", 3)
    assert [choice["index"] for choice in body["choices"]] == list(range(2 * n))
    num_prompt = num_output = 0
    for first in range(0, len(body["choices"]), n):
        beams = body["choices"][first : first + n]
        prompt = beams[0]["prompt_token_ids"]
        with torch.inference_mode():
            wanted = reference.generate(
                torch.tensor([prompt]), num_beams=fields.get("beam_width", n), num_return_sequences=n,
                max_new_tokens=12, length_penalty=0.8, early_stopping=fields.get("early_stopping", False),
                do_sample=False,
            )  # fmt: skip
        theirs = wanted[:, len(prompt) :].tolist()
        ids = [beam["token_ids"] for beam in beams]
        assert ids == [full[: len(ours)] for full, ours in zip(theirs, ids, strict=True)]
        num_prompt += len(prompt)
        num_output += sum(map(len, ids))
    usage = body["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (num_prompt, num_output)


def test_texts_and_ends_are_those_of_the_offline_api(demo: RunningServer) -> None:
    body = post(demo, prompt=PROMPTS, max_tokens=20, return_token_ids=True, logprobs=2)
    params = BeamSearchParams(beam_width=3, max_tokens=20, length_penalty=0.8, logprobs=2)
    with LLM(threads=1) as llm:
        outputs = llm.beam_search(PROMPTS, params)
    ours = [(choice["text"], choice["token_ids"], choice["finish_reason"]) for choice in body["choices"]]
    assert ours == [(one.text, one.token_ids, one.finish_reason) for output in outputs for one in output.choices]
    assert {reason for _, _, reason in ours} == {"stop", "length"}
    beams = [one for output in outputs for one in output.choices]
    for choice, beam in zip(body["choices"], beams, strict=True):
        assert beam.logprobs is not None and beam.score is not None
        assert [entry.token_id for entry in beam.logprobs] == beam.token_ids
        assert all(len(entry.top) == 2 for entry in beam.logprobs)
        told = choice["logprobs"]["token_logprobs"]
        assert told == pytest.approx([entry.logprob for entry in beam.logprobs], abs=0.05)
        assert sum(told) / len(told) ** 0.8 == pytest.approx(beam.score, abs=0.05)


def test_one_beam_is_the_greedy_answer_of_a_chat(demo: RunningServer) -> None:
    messages = [{"role": "user", "content": "Spell quire"}]
    fields: dict[str, Any] = {"messages": messages, "max_tokens": 30, "n": 1, "length_penalty": 1}
    fields |= {"logprobs": True, "top_logprobs": 2}
    path = "/v1/chat/completions"
    beam = post(demo, path, **fields)
    greedy = post(demo, path, **fields, use_beam_search=False, temperature=0)
    scores = [answer["choices"][0].pop("logprobs")["content"] for answer in (beam, greedy)]
    assert beam["choices"] == greedy["choices"]
    for ours, theirs in zip(*scores, strict=True):
        assert ours["token"] == theirs["token"] and len(ours["top_logprobs"]) == len(theirs["top_logprobs"]) == 2
        assert ours["logprob"] == pytest.approx(theirs["logprob"], abs=0.05)
    for answer in (beam, greedy):
        answer["usage"].pop("prompt_tokens_details")
    assert beam["usage"] == greedy["usage"]
    best = post(demo, path, **{**fields, "beam_width": 4, "echo": None})
    assert len(best["choices"]) == 1 and best["choices"][0]["message"]["content"] == "q, u, i, r, e"


def test_an_echo_and_a_prompt_of_ids_are_as_without_beams(demo: RunningServer) -> None:
    by_text = post(demo, prompt="The capital of", max_tokens=6, echo=True, return_token_ids=True)
    ids = by_text["choices"][0]["prompt_token_ids"]
    by_ids = post(demo, prompt=ids, max_tokens=6, echo=True, return_token_ids=True)
    assert by_ids["choices"] == by_text["choices"]
    assert all(choice["text"].startswith("The capital of") for choice in by_text["choices"])
    shorter = post(demo, prompt=[1, 2, 3, *ids], truncate_prompt_tokens=len(ids), max_tokens=6, echo=True)
    assert [one["text"] for one in shorter["choices"]] == [one["text"] for one in by_text["choices"]]


def test_a_search_to_the_end_of_the_context_ends_there(demo: RunningServer) -> None:
    prompt = [5] * 4090
    body = post(demo, prompt=prompt, max_tokens=1000, ignore_eos=True, return_token_ids=True, n=2)
    assert [len(choice["token_ids"]) for choice in body["choices"]] == [6, 6]
    assert [choice["finish_reason"] for choice in body["choices"]] == ["length"] * 2


def until(server: RunningServer, is_true: Callable[[dict[str, float]], bool]) -> None:
    """Metrics of the other frontend come with its next report."""
    end = time.monotonic() + 60
    while not is_true(server.samples()):
        assert time.monotonic() < end, server.samples()
        time.sleep(0.05)


def test_a_client_that_leaves_frees_every_beam(demo: RunningServer) -> None:
    name = 'quire_aborts_total{cause="client_gone"}'
    until(demo, lambda samples: not samples["quire_requests_in_flight"])
    before = demo.samples().get(name, 0)
    body = {**BEAMS, "prompt": "Hello", "max_tokens": 4000, "ignore_eos": True, "beam_width": 8}
    for is_streamed in (False, True):
        content = msgspec.json.encode({**body, "stream": is_streamed})
        connection = http.client.HTTPConnection(demo.url.removeprefix("http://"), timeout=60)
        connection.request("POST", "/v1/completions", content, {"content-type": "application/json"})
        until(demo, lambda samples: samples["quire_requests_in_flight"] > 0)
        connection.close()
        until(demo, lambda samples: not samples["quire_requests_in_flight"])
    until(demo, lambda samples: samples.get(name, 0) >= before + 2 and not samples["quire_requests_in_flight"])
    demo.until_idle()


def pids(server: RunningServer, kind: str) -> set[int]:
    """Of the ready services of a kind."""
    services = msgspec.json.decode(server.get("/status"))["services"]
    return {one["pid"] for one in services if (one["kind"], one["state"]) == (kind, "ready")}


def num_resumed(samples: dict[str, float]) -> float:
    return sum(value for name, value in samples.items() if name.startswith("quire_streams_resumed_total"))


def test_a_search_goes_on_when_its_engine_and_then_its_tokenizer_is_lost() -> None:
    body = {**BEAMS, "prompt": PROMPTS, "max_tokens": 150, "beam_width": 6, "ignore_eos": True}
    with serving() as server, ThreadPoolExecutor(1) as pool:
        undisturbed = post(server, **body)["choices"]
        answer = pool.submit(post, server, **body)
        until(server, lambda samples: samples["quire_requests_in_flight"] > 0)
        lost = {kind: pids(server, kind).pop() for kind in ("engine", "tokenizer")}
        os.kill(lost["engine"], signal.SIGKILL)
        until(server, lambda samples: num_resumed(samples) > 0)
        os.kill(lost["tokenizer"], signal.SIGKILL)
        assert answer.result(120)["choices"] == undisturbed
        assert all(pids(server, kind) - {pid} for kind, pid in lost.items())
        until(
            server, lambda samples: samples["quire_recovery_seconds_count"] > 0 < samples["quire_recovery_seconds_sum"]
        )
        restarts = {"tokenizer-0": 1, "engine-0": 1, "worker-0-0": 0}
        restarts = {f'quire_process_restarts_total{{name="{name}"}}': count for name, count in restarts.items()}
        until(server, lambda samples: restarts.items() <= samples.items())
        server.until_idle()
