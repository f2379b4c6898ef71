"""The engine's metrics, under vLLM's names (see shared/metrics_catalogue.py)."""

from __future__ import annotations

from quire.shared.messages import WorkerReady
from quire.shared.metrics import Gauge, Metrics

from .request import Choice, Request
from .scheduler import Scheduler


class Stats:
    """Counts as things happen; `snapshot` adds the gauges that are read off the scheduler."""

    def __init__(self) -> None:
        self._metrics = metrics = Metrics()
        self.num_steps = 0
        self._last_step = 0.0
        self._generation_tokens = metrics.counter("vllm:generation_tokens_total")
        self._prompt_tokens = metrics.counter("vllm:prompt_tokens_total")
        self._nan_rows = metrics.counter("quire_nan_rows_total")
        self._steps = metrics.counter("quire_steps_total")
        self._iteration_tokens = metrics.histogram("vllm:iteration_tokens_total")
        self._masks_time = metrics.histogram("quire_masks_seconds")
        self._token_latency = metrics.histogram("vllm:inter_token_latency_seconds")
        self._queue_time = metrics.histogram("vllm:request_queue_time_seconds")
        self._prefill_time = metrics.histogram("vllm:request_prefill_time_seconds")
        self._decode_time = metrics.histogram("vllm:request_decode_time_seconds")
        self._inference_time = metrics.histogram("vllm:request_inference_time_seconds")
        self._num_prompt = metrics.histogram("vllm:request_prompt_tokens")
        self._num_generated = metrics.histogram("vllm:request_generation_tokens")
        self._num_preempted = metrics.histogram("vllm:request_num_preemptions")
        for reason in ("stop", "length", "abort", "error"):  # so that the first is seen as an increase
            metrics.counter("vllm:request_success_total", finished_reason=reason)
        self._worker_info: Gauge | None = None
        self._earlier = {"preemptions": 0, "queries": 0, "hits": 0}
        """Of schedulers that workers' restarts have thrown away: counters never fall."""

    def worker_ready(self, facts: WorkerReady) -> None:
        if self._worker_info is not None:
            self._worker_info.set(0)
        labels = {"backend": facts.backend, "dtype": facts.dtype, "device": facts.device}
        self._worker_info = self._metrics.gauge("quire_worker_info", **labels)
        self._worker_info.set(1)

    def step(self, num_tokens: int, latencies: list[float]) -> None:
        """A committed step; `latencies`: seconds since the last token of each row that had one."""
        self.num_steps += 1
        self._steps.add()
        self._iteration_tokens.observe(num_tokens)
        self._token_latency.observe_all(latencies)
        self._generation_tokens.add(len(latencies))

    def masks(self, seconds: float) -> None:
        """What a step's masks took to make."""
        self._masks_time.observe(seconds)

    def first_token(self, request: Request, choice: Choice, now: float) -> None:
        self._queue_time.observe(choice.scheduled_at - request.arrival_monotonic)
        self._prefill_time.observe(now - choice.scheduled_at)
        if request.submit.sampling.max_tokens:
            self._generation_tokens.add()
        if choice.index == 0:
            self._prompt_tokens.add(request.num_prompt_tokens)
            self._num_prompt.observe(request.num_prompt_tokens)

    def finished(self, choice: Choice, reason: str, now: float) -> None:
        """An end with an answer, or an abort after the first token."""
        self._metrics.counter("vllm:request_success_total", finished_reason=reason).add()
        self._num_generated.observe(choice.num_outputs)
        self._num_preempted.observe(choice.num_preemptions)
        if choice.started:
            self._decode_time.observe(now - choice.first_token_at)
            self._inference_time.observe(now - choice.scheduled_at)

    def nan_row(self) -> None:
        self._nan_rows.add()

    def forget(self, scheduler: Scheduler) -> None:
        """A scheduler is about to be thrown away: keep what it counted."""
        self._earlier["preemptions"] += scheduler.num_preemptions
        self._earlier["queries"] += scheduler.cache.num_queried_tokens
        self._earlier["hits"] += scheduler.cache.num_hit_tokens

    def snapshot(
        self, scheduler: Scheduler | None, last_step_age_seconds: float, num_deferred: int = 0
    ) -> dict[str, float]:
        """All samples of this engine. `num_deferred`: choices that no scheduler has yet, since a grammar is awaited."""
        metrics, earlier = self._metrics, self._earlier
        metrics.gauge("quire_engine_last_step_age_seconds").set(last_step_age_seconds)
        if scheduler is not None:
            blocks, cache = scheduler.blocks, scheduler.cache
            metrics.gauge("vllm:num_requests_running").set(len(scheduler.running))
            num_waiting = scheduler.num_open_choices - len(scheduler.running)
            metrics.gauge("vllm:num_requests_waiting").set(num_waiting + num_deferred)
            metrics.gauge("vllm:num_requests_waiting_by_reason", reason="capacity").set(num_waiting)
            metrics.gauge("vllm:num_requests_waiting_by_reason", reason="deferred").set(num_deferred)
            metrics.gauge("vllm:kv_cache_usage_perc").set(blocks.num_used / blocks.num_blocks)
            metrics.gauge("quire_kv_blocks", state="used").set(blocks.num_used)
            metrics.gauge("quire_kv_blocks", state="free").set(blocks.num_free)
            metrics.gauge("quire_kv_blocks", state="cached").set(len(cache))
            limits = scheduler.limits
            labels = {
                "block_size": str(limits.block_size),
                "num_gpu_blocks": str(limits.num_blocks),
                "enable_prefix_caching": str(limits.prefix_caching),
            }
            metrics.gauge("vllm:cache_config_info", **labels).set(1)
        samples = metrics.snapshot()
        samples["vllm:num_preemptions_total"] = earlier["preemptions"] + (scheduler.num_preemptions if scheduler else 0)
        samples["vllm:prefix_cache_queries_total"] = earlier["queries"] + (
            scheduler.cache.num_queried_tokens if scheduler else 0
        )
        samples["vllm:prefix_cache_hits_total"] = earlier["hits"] + (scheduler.cache.num_hit_tokens if scheduler else 0)
        return {name: float(value) for name, value in samples.items()}
