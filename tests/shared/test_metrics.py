"""Metrics: what is counted, how reports merge, and that the text is what Prometheus reads."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quire.shared.metrics import Metrics, exposition, family_of, merge, sample_name
from quire.shared.metrics_catalogue import CATALOGUE

LATENCY = "vllm:e2e_request_latency_seconds"


@given(st.lists(st.floats(0, 10_000), max_size=50))
def test_a_histogram_counts_every_value_once(values: list[float]) -> None:
    one, bulk = Metrics(), Metrics()
    one.histogram(LATENCY)
    for value in values:
        one.histogram(LATENCY).observe(value)
    bulk.histogram(LATENCY).observe_all(values)
    samples = one.snapshot()
    assert samples == pytest.approx(bulk.snapshot())
    if values:
        assert samples[f"{LATENCY}_count"] == len(values) == samples[f'{LATENCY}_bucket{{le="+Inf"}}']
        assert samples[f'{LATENCY}_bucket{{le="1"}}'] == sum(value <= 1 for value in values)
        assert samples[f"{LATENCY}_sum"] == pytest.approx(sum(values))


def test_one_observation_can_stand_for_many() -> None:
    metrics = Metrics()
    metrics.histogram(LATENCY).observe(0.3, 7)
    assert metrics.snapshot()[f"{LATENCY}_count"] == 7


def test_reports_merge_by_sum_but_shares_by_the_largest() -> None:
    merged = merge([
        {"vllm:num_requests_running": 2, "vllm:kv_cache_usage_perc": 0.5, 'vllm:request_success_total{r="a"}': 1},
        {"vllm:num_requests_running": 3, "vllm:kv_cache_usage_perc": 0.2, 'vllm:request_success_total{r="b"}': 4},
    ])  # fmt: skip
    assert merged["vllm:num_requests_running"] == 5
    assert merged["vllm:kv_cache_usage_perc"] == 0.5
    assert merged['vllm:request_success_total{r="a"}'] == 1


def test_the_text_has_help_type_and_labels_for_every_family() -> None:
    metrics = Metrics()
    metrics.counter("vllm:request_success_total", finished_reason="stop").add(2)
    metrics.gauge("vllm:num_requests_running").set(2.5)
    metrics.gauge("quire_process_up", name='a"b\\c\nd').set(1)
    metrics.histogram(LATENCY).observe(0.2)
    text = exposition(metrics.snapshot(), (("model_name", "demo"),)).decode()
    assert 'vllm:request_success_total{model_name="demo",finished_reason="stop"} 2\n' in text
    assert 'vllm:num_requests_running{model_name="demo"} 2.5\n' in text
    assert 'quire_process_up{name="a\\"b\\\\c\\nd"} 1\n' in text
    assert f'{LATENCY}_bucket{{model_name="demo",le="0.2"}} 1\n' in text
    assert text.count("# TYPE ") == text.count("# HELP ") == 4
    for line in text.splitlines():
        assert line.startswith("# ") or re.fullmatch(r"[a-z_:]\S*?(\{.*\})? [-+0-9.e]+", line), line


def test_infinities_do_not_break_the_text() -> None:
    assert exposition({"x": float("inf"), "y": float("nan")}).decode().count("\n") == 4


def test_a_name_must_be_in_the_catalogue_with_its_type() -> None:
    with pytest.raises(KeyError):
        Metrics().counter("quire_invented_total")
    with pytest.raises(TypeError):
        Metrics().gauge("vllm:num_preemptions_total")


def test_every_sample_finds_its_family() -> None:
    for name, family in CATALOGUE.items():
        metrics = Metrics()
        {"counter": metrics.counter, "gauge": metrics.gauge, "histogram": metrics.histogram}[family.type](name)
        for sample in metrics.snapshot():
            assert family_of(sample) == name
        assert family.type != "counter" or name.endswith("_total")
    assert sample_name("x") == "x"
