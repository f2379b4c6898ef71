"""The catalogue of metrics: every family's name, type, owner, help and bounds.

One kind of service owns each family, so that nothing is counted twice when reports are merged.
Names that begin with vllm: mean what they mean there, so that dashboards and autoscalers fit.
"""

from __future__ import annotations

import msgspec


class Family(msgspec.Struct, frozen=True):
    """One metric with all its labels."""

    name: str
    type: str
    """counter | gauge | histogram."""
    owner: str
    """The kind of service that reports it; any: each reports its own."""
    help: str
    buckets: tuple[float, ...] = ()
    is_merged_by_max: bool = False


_FAST_SECONDS = (
    0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5,
    0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_HOST_SECONDS = (
    0.00005, 0.0001, 0.00015, 0.0002, 0.0003, 0.0004, 0.0005, 0.0006, 0.0008, 0.001, 0.0015, 0.002, 0.005, 0.01, 0.1,
)  # fmt: skip
_REQUEST_SECONDS = (
    0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_LENGTHS = tuple(float(m * 10**e) for e in range(6) for m in (1, 2, 5))
_ITERATION_TOKENS = tuple(float(2**e) for e in range(15))
_FEW = (0.0, 1.0, 2.0, 3.0, 5.0, 10.0)
_SMALL_NUMBERS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 128.0)


def _counter(name: str, owner: str, text: str) -> Family:
    return Family(name, "counter", owner, text)


def _gauge(name: str, owner: str, text: str, is_merged_by_max: bool = False) -> Family:
    return Family(name, "gauge", owner, text, is_merged_by_max=is_merged_by_max)


def _histogram(name: str, owner: str, text: str, buckets: tuple[float, ...]) -> Family:
    return Family(name, "histogram", owner, text, buckets)


_FAMILIES = (
    # --- engine
    _gauge("vllm:num_requests_running", "engine", "Choices that take part in steps."),
    _gauge("vllm:num_requests_waiting", "engine", "Choices that wait to take part in steps."),
    _gauge("vllm:num_requests_waiting_by_reason", "engine", "The same, by reason: capacity, or deferred (a grammar)."),
    _gauge("vllm:kv_cache_usage_perc", "engine", "Share of the KV blocks in use, 0 to 1.", is_merged_by_max=True),
    _gauge("vllm:cache_config_info", "engine", "Settings of the KV cache, as labels.", is_merged_by_max=True),
    _gauge("quire_worker_info", "engine", "1, with what the worker computes as labels.", is_merged_by_max=True),
    _counter("vllm:prefix_cache_queries_total", "engine", "Prompt tokens looked up in the prefix cache."),
    _counter("vllm:prefix_cache_hits_total", "engine", "Prompt tokens found in the prefix cache."),
    _counter("vllm:num_preemptions_total", "engine", "Preemptions."),
    _counter("vllm:prompt_tokens_total", "engine", "Prompt tokens of requests that have begun to run."),
    _counter("vllm:generation_tokens_total", "engine", "Output tokens."),
    _counter("vllm:request_success_total", "engine", "Choices that have ended, by finished_reason."),
    _histogram("vllm:iteration_tokens_total", "engine", "Scheduled tokens of a step.", _ITERATION_TOKENS),
    _histogram("vllm:inter_token_latency_seconds", "engine", "Time between two tokens of a choice.", _FAST_SECONDS),
    _histogram("vllm:request_queue_time_seconds", "engine", "Time a choice waited to run.", _REQUEST_SECONDS),
    _histogram("vllm:request_prefill_time_seconds", "engine", "From running to the first token.", _REQUEST_SECONDS),
    _histogram("vllm:request_decode_time_seconds", "engine", "From the first token to the last.", _REQUEST_SECONDS),
    _histogram("vllm:request_inference_time_seconds", "engine", "From running to the last token.", _REQUEST_SECONDS),
    _histogram("vllm:request_prompt_tokens", "engine", "Prompt tokens of a request.", _LENGTHS),
    _histogram("vllm:request_generation_tokens", "engine", "Output tokens of a choice.", _LENGTHS),
    _histogram("vllm:request_num_preemptions", "engine", "How often a choice was preempted.", _FEW),
    _gauge("quire_kv_blocks", "engine", "KV blocks, by state."),
    _gauge("quire_engine_last_step_age_seconds", "engine", "Time since the last step.", is_merged_by_max=True),
    _counter("quire_nan_rows_total", "engine", "Rows ended because their logits were not finite."),
    _counter("quire_steps_total", "engine", "Steps."),
    _histogram("quire_masks_seconds", "engine", "Making the masks of a step, its tokens being known.", _HOST_SECONDS),
    # --- worker
    _histogram("quire_worker_host_seconds", "worker", "From a plan's receipt to its launch on a GPU.", _HOST_SECONDS),
    _histogram("quire_masks_wait_seconds", "worker", "From a step's need of masks to their arrival.", _HOST_SECONDS),
    # --- tokenizer
    _histogram("quire_encode_seconds", "tokenizer", "From Generate to the prompt's token ids.", _FAST_SECONDS),
    _gauge("quire_tokenizer_requests", "tokenizer", "Requests a tokenizer holds."),
    _counter("quire_tokenizer_prompts_total", "tokenizer", "Prompts rendered, encoded and handed to an engine."),
    _counter("quire_tokenizer_prompt_tokens_total", "tokenizer", "Tokens of those prompts."),
    _counter("quire_tokenizer_output_tokens_total", "tokenizer", "Tokens turned to text."),
    _counter("quire_tokenizer_refused_total", "tokenizer", "Requests refused by a tokenizer, by code."),
    _counter("quire_tokenizer_stop_strings_total", "tokenizer", "Choices ended by a stop string."),
    # --- frontend
    _histogram("vllm:time_to_first_token_seconds", "frontend", "From arrival to the first token.", _FAST_SECONDS),
    _histogram("vllm:e2e_request_latency_seconds", "frontend", "From arrival to the end.", _REQUEST_SECONDS),
    _histogram("vllm:request_params_n", "frontend", "Choices a request asked for.", _SMALL_NUMBERS),
    _histogram("vllm:request_params_max_tokens", "frontend", "The limit a request asked for.", _LENGTHS),
    _gauge("quire_requests_in_flight", "frontend", "Choices past the frontend's door."),
    _gauge("quire_stream_buffer_bytes", "frontend", "Bytes that readers have not taken yet."),
    _gauge("quire_event_loop_lag_seconds", "frontend", "How late the event loop wakes.", is_merged_by_max=True),
    _counter("quire_admission_rejected_total", "frontend", "Requests refused at the door, by code."),
    _gauge("quire_connections", "frontend", "Open connections of clients."),
    _counter("quire_connections_dropped_total", "frontend", "Connections ended by the server, by cause."),
    _counter("quire_accept_pauses_total", "frontend", "How often connections had to wait for room."),
    _counter("quire_aborts_total", "frontend", "Requests aborted, by cause."),
    _counter("quire_http_responses_total", "frontend", "Answers, by status."),
    _counter("vllm:admission_rejections_total", "frontend", "Requests refused at the door, by reason."),
    _histogram("quire_recovery_seconds", "frontend", "From the loss of a request to its going on.", _REQUEST_SECONDS),
    _counter("quire_streams_resumed_total", "frontend", "Streams that went on after a service below was lost."),
    # --- every service
    _gauge("quire_process_up", "any", "1 for each process that reports, by name."),
    _gauge("quire_process_ready", "any", "1 when the process is ready, by name."),
    _gauge("quire_heartbeat_age_seconds", "any", "Time since a process last reported, by name.", is_merged_by_max=True),
    _counter("quire_process_restarts_total", "frontend", "Restarts of lost processes, by name."),
    _gauge("quire_build_info", "frontend", "1, with the version as label.", is_merged_by_max=True),
)  # fmt: skip

CATALOGUE: dict[str, Family] = {family.name: family for family in _FAMILIES}
"""By name."""
