"""Spans of requests, as an OTLP collector gets them; and what is said without the packages for it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from quire.services.frontend.spans import Spans
from quire.shared.config import FrontendConfig


class Collector:
    """Takes OTLP over HTTP and keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        self.resources: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = ExportTraceServiceRequest()
                request.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
                assert self.path == "/v1/traces"
                for of_resource in request.resource_spans:
                    collector.resources.append(of_resource.resource)
                    collector.spans += [span for scope in of_resource.scope_spans for span in scope.spans]
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    one = Collector()
    yield one
    one.close()


def attributes(of: Any) -> dict[str, Any]:
    found = {}
    for one in of.attributes:
        kind = one.value.WhichOneof("value")
        value = getattr(one.value, kind)
        found[one.key] = [item.string_value for item in value.values] if kind == "array_value" else value
    return found


def test_a_request_is_a_span_with_its_figures_and_no_text(
    fake: Any, start: Callable[..., Any], collector: Collector
) -> None:
    frontend = start("--otlp-endpoint", collector.url).wait_ready()
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    headers = {"traceparent": f"00-{trace}-{parent}-01", "x-request-id": "mine-3"}
    frontend.client.post("/v1/completions", json={"prompt": "a swordfish", "stream": True}, headers=headers)
    frontend.client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "!error"}]})
    assert frontend.stop() == 0  # and sends what it has
    good, bad = sorted(collector.spans, key=lambda span: span.start_time_unix_nano)
    assert (good.name, good.trace_id.hex(), good.parent_span_id.hex()) == ("text_completion demo", trace, parent)
    figures = attributes(good)
    assert figures["gen_ai.usage.input_tokens"] == 2 and figures["gen_ai.usage.output_tokens"] == 5
    assert figures["gen_ai.response.finish_reasons"] == ["stop"]
    assert (figures["http.response.status_code"], figures["quire.request_id"]) == (200, "mine-3")
    (event,) = good.events
    assert event.name == "first_token"
    assert good.start_time_unix_nano < event.time_unix_nano <= good.end_time_unix_nano
    assert (bad.name, attributes(bad)["error.type"]) == ("chat demo", "internal_error")
    assert bad.trace_id != good.trace_id
    assert attributes(collector.resources[0])["service.name"] == "quire"
    assert "swordfish" not in str(collector.spans) and "Hello" not in str(collector.spans)


def test_a_collector_that_is_gone_holds_up_nobody(fake: Any, start: Callable[..., Any], collector: Collector) -> None:
    collector.close()
    frontend = start("--otlp-endpoint", collector.url).wait_ready()
    for _ in range(20):
        assert frontend.client.post("/v1/completions", json={"prompt": "x"}).status_code == 200
    assert frontend.stop() == 0


def test_without_the_packages_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(ValueError, match=r"pip install 'quire\[otel\]'"):
        Spans.of(FrontendConfig(otlp_endpoint="http://127.0.0.1:4318"), "frontend-0")
    assert Spans.of(FrontendConfig(), "frontend-0") is None
