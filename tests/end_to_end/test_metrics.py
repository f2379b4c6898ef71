"""/metrics of a live server: every promised name is there from the start, of its type, and counts what happens."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import httpx
import pytest
from running_server import RunningServer, serving

HISTOGRAMS = (
    "time_to_first_token_seconds", "inter_token_latency_seconds", "e2e_request_latency_seconds",
    "request_queue_time_seconds", "request_inference_time_seconds", "request_prefill_time_seconds",
    "request_decode_time_seconds", "request_prompt_tokens", "request_generation_tokens", "iteration_tokens_total",
    "request_params_n", "request_params_max_tokens", "request_num_preemptions",
)  # fmt: skip
PROMISED = {
    **{f"vllm:{name}": "histogram" for name in HISTOGRAMS},
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:num_requests_waiting_by_reason": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:cache_config_info": "gauge",
    "vllm:prefix_cache_queries_total": "counter",
    "vllm:prefix_cache_hits_total": "counter",
    "vllm:num_preemptions_total": "counter",
    "vllm:prompt_tokens_total": "counter",
    "vllm:generation_tokens_total": "counter",
    "vllm:request_success_total": "counter",
    "vllm:admission_rejections_total": "counter",
    "quire_process_up": "gauge",
    "quire_process_restarts_total": "counter",
    "quire_heartbeat_age_seconds": "gauge",
    "quire_engine_last_step_age_seconds": "gauge",
    "quire_admission_rejected_total": "counter",
    "quire_aborts_total": "counter",
    "quire_event_loop_lag_seconds": "gauge",
    "quire_stream_buffer_bytes": "gauge",
    "quire_streams_resumed_total": "counter",
    "quire_recovery_seconds": "histogram",
    "quire_kv_blocks": "gauge",
    "quire_nan_rows_total": "counter",
    "quire_build_info": "gauge",
}
GROWING = ("_total", "_bucket", "_sum", "_count")


@pytest.fixture(scope="module")
def server() -> Any:
    """Two frontends, each of which serves the counts of both."""
    with serving("--frontends=2", "--tokenizers=2", "--max-in-flight=8") as one:
        yield one


def samples_when_told(server: RunningServer) -> dict[str, float]:
    """A frontend that has only just begun answers 503 until it knows what was counted before."""
    end = time.monotonic() + 60
    while True:
        try:
            return server.samples()
        except (OSError, HTTPException):
            assert time.monotonic() < end, "/metrics stays away"
        time.sleep(0.1)


def grown(server: RunningServer, before: dict[str, float], wanted: dict[str, float]) -> None:
    """Wait for the last report of every process: then these have grown by so much, and not by more."""
    end = time.monotonic() + 60
    while True:
        now = samples_when_told(server)
        found = {name: now.get(name, 0.0) - before.get(name, 0.0) for name in wanted}
        if found == wanted:
            return
        assert time.monotonic() < end, {
            name: (found[name], wanted[name]) for name in wanted if found[name] != wanted[name]
        }
        time.sleep(0.1)


def settled(server: RunningServer) -> dict[str, float]:
    """The samples once nothing more comes of what was before: two reports of every process long the same counts.

    Reports come every second, and as much later as the machine is busy.
    """
    counts: dict[str, float] = {}
    since, longest = time.monotonic(), 0.0
    while time.monotonic() - since < max(2.5, 2 * longest):
        now = server.samples()
        latest = {name: value for name, value in now.items() if name.endswith(("_total", "_count"))}
        longest = max(longest, *(age for name, age in now.items() if name.startswith("quire_heartbeat_age_seconds")))
        if latest != counts:
            counts, since, longest = latest, time.monotonic(), 0.0
        time.sleep(0.1)
    return server.samples()


def test_every_promised_name_is_there_with_its_type_and_help(server: RunningServer) -> None:
    text = server.get("/metrics").decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert {name: types.get(name) for name in PROMISED} == PROMISED
    helped = set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
    assert helped == set(types) and "untyped" not in types.values()
    for name, kind in PROMISED.items():
        suffix = "_bucket" if kind == "histogram" else ""
        found = re.findall(rf"^{name}{suffix}\{{(.*)\}} \S+$|^{name}{suffix} \S+$", text, re.MULTILINE)
        assert found, f"{name} has no sample"
        if name.startswith("vllm:"):
            assert all('model_name="quire-demo"' in labels for labels in found)
    names = {"frontend-0", "frontend-1", "tokenizer-0", "tokenizer-1", "engine-0", "worker-0-0"}
    for family in ("quire_process_up", "quire_process_restarts_total", "quire_heartbeat_age_seconds"):
        assert set(re.findall(rf'^{family}{{name="(.*)"}} ', text, re.MULTILINE)) == names


def ask(server: RunningServer, **fields: Any) -> dict[str, Any]:
    body = {"prompt": [7] * 40, "max_tokens": 5, "ignore_eos": True, **fields}
    return httpx.post(server.url + "/v1/completions", json=body, timeout=60).json()


def test_requests_are_counted_once_whichever_frontend_has_them(server: RunningServer) -> None:
    before = settled(server)
    for _ in range(6):  # each by a connection of its own
        ask(server, n=2, seed=1)
    count = {f"vllm:{name}_count": 6.0 for name in ("e2e_request_latency_seconds", "time_to_first_token_seconds")}
    count |= {"vllm:request_prompt_tokens_count": 6.0, "vllm:request_params_n_count": 6.0}
    choices = ("queue_time_seconds", "prefill_time_seconds", "decode_time_seconds", "inference_time_seconds")
    count |= {f"vllm:request_{name}_count": 12.0 for name in (*choices, "generation_tokens", "num_preemptions")}
    grown(server, before, {
        **count,
        "vllm:request_params_n_sum": 12.0, "vllm:request_params_max_tokens_sum": 30.0,
        "vllm:request_prompt_tokens_sum": 240.0, "vllm:prompt_tokens_total": 240.0,
        "vllm:request_generation_tokens_sum": 60.0, "vllm:generation_tokens_total": 60.0,
        "vllm:inter_token_latency_seconds_count": 48.0,
        'vllm:request_success_total{finished_reason="length"}': 12.0,
        'vllm:request_success_total{finished_reason="abort"}': 0.0,
    })  # fmt: skip
    after = settled(server)
    assert after["vllm:prefix_cache_hits_total"] > before["vllm:prefix_cache_hits_total"]
    steps = after["quire_steps_total"] - before["quire_steps_total"]
    assert after["vllm:iteration_tokens_total_count"] - before["vllm:iteration_tokens_total_count"] == steps >= 5


def test_ends_aborts_and_refusals_are_counted_by_cause(server: RunningServer) -> None:
    before = settled(server)
    stopped = ask(server, prompt="Once upon a time", stop=[" a"], max_tokens=40, ignore_eos=False, temperature=0)
    assert stopped["choices"][0]["finish_reason"] == "stop"
    body = {"prompt": "x", "max_tokens": 3000, "ignore_eos": True, "stream": True, "n": 8}
    # A frontend's door is full of its own requests alone: enough of them to fill both.
    with httpx.Client(timeout=60) as client:
        streams = []
        num_refused = 0
        while num_refused == 0:
            stream = client.send(client.build_request("POST", server.url + "/v1/completions", json=body), stream=True)
            if stream.status_code == 200:
                streams.append(stream)
            else:
                assert stream.status_code == 429
                num_refused += 1
                stream.close()
        until(server, lambda samples: samples["vllm:num_requests_running"] > 0 and samples["vllm:kv_cache_usage_perc"])
        until(server, lambda samples: samples["quire_requests_in_flight"] == 8 * len(streams))
        for stream in streams:
            stream.close()
    grown(server, before, {
        'vllm:request_success_total{finished_reason="stop"}': 1.0,
        'vllm:request_success_total{finished_reason="abort"}': 8.0 * len(streams),
        'quire_aborts_total{cause="client_gone"}': float(len(streams)),
        'quire_admission_rejected_total{code="rate_limit_exceeded"}': 1.0,
        'vllm:admission_rejections_total{reason="rate_limit_exceeded"}': 1.0,
        'quire_http_responses_total{status="429"}': 1.0,
    })  # fmt: skip
    until(server, lambda samples: samples["vllm:num_requests_running"] == 0 == samples["quire_requests_in_flight"])
    server.until_idle()


COUNTS_SCRAPES = "quire_http_responses_total"
"""Of a frontend's last second the other does not know yet, and each look at the metrics is a response."""


def growing(samples: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in samples.items() if name.partition("{")[0].endswith(GROWING)}


@pytest.mark.parametrize("names", [["frontend-0", "frontend-1"], ["tokenizer-0"], ["engine-0"], ["worker-0-0"]])
def test_no_sum_goes_back_when_a_process_is_killed(server: RunningServer, names: list[str]) -> None:
    """Whatever it had counted, and whichever frontend is asked: also one that has only just begun."""
    ask(server)
    before = growing(settled(server))
    before = {each: value for each, value in before.items() if each.partition("{")[0] != COUNTS_SCRAPES}
    for name in names:
        pid = server.pids()[name]
        os.kill(pid, signal.SIGKILL)
        is_back = False
        while not is_back:
            try:
                now = server.samples()
                is_back = server.pids().get(name) != pid and httpx.get(server.url + "/ready").status_code == 200
            except (httpx.TransportError, OSError, HTTPException):
                continue  # it was that frontend's connection
            fallen = {each: (value, now.get(each)) for each, value in before.items() if now.get(each, 0.0) < value}
            assert not fallen, fallen
    ask(server)
    grown(server, growing(before), {"vllm:generation_tokens_total": 5.0, "vllm:e2e_request_latency_seconds_count": 1.0})


def until(server: RunningServer, is_true: Callable[[dict[str, float]], Any]) -> None:
    end = time.monotonic() + 60
    while not is_true(server.samples()):
        assert time.monotonic() < end, server.samples()
        time.sleep(0.05)
