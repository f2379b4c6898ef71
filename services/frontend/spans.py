"""OpenTelemetry spans, by --otlp-endpoint: one for each generation request, with OpenTelemetry's GenAI names.

Made at a request's end out of its RequestFacts and exported over OTLP/HTTP by a thread of its own. The
packages are optional (quire[otel]) and imported only here. Holds no prompt and no answer.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

from quire import __version__
from quire.shared.config import FrontendConfig
from quire.shared.log_lines import handler_of

from .request_log import RequestFacts

if TYPE_CHECKING:
    from .exchange import Exchange

_FLUSH_SECONDS = 2.0
_PATH = "/v1/traces"


class Spans:
    """Raises ValueError with a sentence when the packages are not installed."""

    def __init__(self, endpoint: str, instance: str, log_format: str) -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.trace import SpanKind, StatusCode
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError as error:
            raise ValueError(
                f"--otlp-endpoint needs OpenTelemetry's packages, and {error.name} is not installed:"
                " pip install 'quire[otel]'"
            ) from None
        logs = logging.getLogger("opentelemetry")
        logs.handlers[:], logs.propagate = [handler_of(log_format, instance)], False
        logs.setLevel(logging.ERROR)
        resource = {"service.name": "quire", "service.version": __version__, "service.instance.id": instance}
        self._provider = TracerProvider(resource=Resource.create(resource), shutdown_on_exit=False)
        address = endpoint.rstrip("/")
        exporter = OTLPSpanExporter(endpoint=address if address.endswith(_PATH) else address + _PATH)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("quire.frontend", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._kind, self._error = SpanKind.SERVER, StatusCode.ERROR

    @classmethod
    def of(cls, config: FrontendConfig, instance: str) -> Spans | None:
        """None without --otlp-endpoint."""
        return cls(config.otlp_endpoint, instance, config.log_format) if config.otlp_endpoint else None

    def write(self, exchange: Exchange, facts: RequestFacts) -> None:
        """The span of a request that has ended; a child of its `traceparent`, if it sent one."""
        headers = ((name.decode(), exchange.header(name)) for name in (b"traceparent", b"tracestate"))
        carrier = {name: value.decode("latin-1") for name, value in headers if value is not None}
        span = self._tracer.start_span(
            f"{facts.operation} {facts.model}".strip(),
            context=self._propagator.extract(carrier),
            kind=self._kind,
            attributes=_attributes(facts),
            start_time=_nanoseconds(facts.arrival),
        )
        if facts.first_token_at:
            span.add_event("first_token", timestamp=_nanoseconds(facts.first_token_at))
        if facts.outcome != "ok":
            span.set_attribute("error.type", facts.outcome)
            span.set_status(self._error)
        span.end(_nanoseconds(facts.ended_at))

    def close(self) -> None:
        """Export what is left, for two seconds at most: a collector that is gone must not hold up the end."""
        thread = threading.Thread(target=self._provider.shutdown, daemon=True)
        thread.start()
        thread.join(_FLUSH_SECONDS)


def _attributes(facts: RequestFacts) -> dict[str, Any]:
    found: dict[str, Any] = {
        "gen_ai.operation.name": facts.operation,
        "gen_ai.provider.name": "quire",
        "gen_ai.request.model": facts.model,
        "gen_ai.request.choice.count": facts.num_choices,
        "gen_ai.response.id": facts.id,
        "gen_ai.response.finish_reasons": facts.finish_reasons,
        "gen_ai.usage.input_tokens": facts.prompt_tokens,
        "gen_ai.usage.output_tokens": facts.output_tokens,
        "http.request.method": "POST",
        "http.response.status_code": facts.status,
        "url.path": facts.path,
        "quire.request_id": facts.request_id,
        "quire.key": facts.key,
        "quire.cached_tokens": facts.cached_tokens,
        "quire.queue_seconds": facts.queue_seconds,
    }
    if (first := facts.first_token_seconds) is not None:
        found["quire.first_token_seconds"] = first
    return found


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
