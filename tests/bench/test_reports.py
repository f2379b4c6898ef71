"""Percentiles of histograms as services report them."""

from __future__ import annotations

import math

import pytest

from bench.reports import histogram_percentile, samples_of
from quire.shared.metrics import Metrics


def test_a_percentile_lies_between_the_bounds_of_its_bucket():
    metrics = Metrics()
    histogram = metrics.histogram("quire_masks_seconds")
    histogram.observe_all([0.00012] * 50 + [0.0007] * 49 + [0.003])
    samples = metrics.snapshot()
    assert histogram_percentile(samples, "quire_masks_seconds", 50) == pytest.approx(0.00015)
    assert 0.0001 < histogram_percentile(samples, "quire_masks_seconds", 25) < 0.00015
    assert 0.0006 < histogram_percentile(samples, "quire_masks_seconds", 99) <= 0.0008
    assert 0.002 < histogram_percentile(samples, "quire_masks_seconds", 99.9) <= 0.005


def test_of_no_values_there_is_no_percentile_and_beyond_the_last_bound_only_that():
    metrics = Metrics()
    histogram = metrics.histogram("quire_masks_seconds")
    assert math.isnan(histogram_percentile(metrics.snapshot(), "quire_masks_seconds", 50))
    histogram.observe(7.0)
    assert histogram_percentile(metrics.snapshot(), "quire_masks_seconds", 50) == 0.1


def test_a_service_that_is_not_there_is_told(tmp_path):
    tmp_path.chmod(0o700)
    with pytest.raises(RuntimeError, match="there is no engine-0"):
        samples_of(str(tmp_path), "engine-0")
