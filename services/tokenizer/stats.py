"""What this service counts, and the samples of its reports.

Knows nothing of requests but numbers.
"""

from __future__ import annotations

from quire.shared.metrics import Metrics


class Stats:
    """`steps` grows with everything done, so that a health check sees progress."""

    def __init__(self) -> None:
        self._metrics = metrics = Metrics()
        self._requests = metrics.gauge("quire_tokenizer_requests")
        self._prompts = metrics.counter("quire_tokenizer_prompts_total")
        self._prompt_tokens = metrics.counter("quire_tokenizer_prompt_tokens_total")
        self._output_tokens = metrics.counter("quire_tokenizer_output_tokens_total")
        self._stop_strings = metrics.counter("quire_tokenizer_stop_strings_total")
        self._encode_seconds = metrics.histogram("quire_encode_seconds")
        self.steps = 0

    def prepared(self, num_tokens: int, seconds: float) -> None:
        self.steps += 1
        self._prompts.add()
        self._prompt_tokens.add(num_tokens)
        self._encode_seconds.observe(seconds)

    def refused(self, code: str) -> None:
        self.steps += 1
        self._metrics.counter("quire_tokenizer_refused_total", code=code).add()

    def translated(self, num_tokens: int, num_stop_strings: int) -> None:
        self.steps += 1
        self._output_tokens.add(num_tokens)
        if num_stop_strings:
            self._stop_strings.add(num_stop_strings)

    def samples(self, num_requests: int) -> dict[str, float]:
        self._requests.set(num_requests)
        return self._metrics.snapshot()
