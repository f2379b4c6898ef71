"""Metrics: counters, gauges and histograms of a process, and the text Prometheus reads.

Every service keeps a Metrics and puts its `snapshot()` into its Report; the frontend merges the
reports of all services and writes the exposition. Names and meanings are vLLM's where it has them.
Knows no sockets, no threads (a metric belongs to one thread) and no Prometheus library.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from .metrics_catalogue import CATALOGUE, Family

Labels = tuple[tuple[str, str], ...]


class Counter:
    """A number that only grows."""

    __slots__ = ("name", "value")

    def __init__(self, name: str) -> None:
        self.name = name
        self.value = 0.0

    def add(self, amount: float = 1.0) -> None:
        self.value += amount

    def snapshot(self, into: dict[str, float]) -> None:
        into[self.name] = self.value


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("name", "value")

    def __init__(self, name: str) -> None:
        self.name = name
        self.value = 0.0

    def set(self, value: float) -> None:
        self.value = value

    def snapshot(self, into: dict[str, float]) -> None:
        into[self.name] = self.value


class Histogram:
    """How often values fell below each bound."""

    __slots__ = ("_bounds", "_counts", "_names", "_sum")

    def __init__(self, family: Family, labels: Labels = ()) -> None:
        self._bounds = family.buckets
        self._counts = [0] * (len(family.buckets) + 1)
        self._sum = 0.0
        texts = [f"{bound:g}" for bound in family.buckets] + ["+Inf"]
        self._names = [sample_name(family.name + "_bucket", (*labels, ("le", text))) for text in texts]
        self._names += [sample_name(family.name + suffix, labels) for suffix in ("_sum", "_count")]

    def observe(self, value: float, count: int = 1) -> None:
        """`count` observations of the same value: one call a step, not one a row."""
        self._counts[bisect_left(self._bounds, value)] += count
        self._sum += value * count

    def observe_all(self, values: Sequence[float]) -> None:
        if not values:
            return
        bounds, counts = self._bounds, self._counts
        self._sum += sum(values)
        lowest, highest = bisect_left(bounds, min(values)), bisect_left(bounds, max(values))
        if lowest == highest:  # as it is of a step's rows, whose last tokens came together too
            counts[lowest] += len(values)
            return
        for value in values:
            counts[bisect_left(bounds, value)] += 1

    def snapshot(self, into: dict[str, float]) -> None:
        running = 0
        for name, count in zip(self._names, self._counts, strict=False):
            running += count
            into[name] = float(running)
        into[self._names[-2]] = self._sum
        into[self._names[-1]] = float(running)


_MetricT = TypeVar("_MetricT", Counter, Gauge, Histogram)


class Metrics:
    """The metrics of one process, made at first use; each name must be in the catalogue."""

    def __init__(self) -> None:
        self._metrics: dict[str, Counter | Gauge | Histogram] = {}

    def prepare(self, owner: str) -> None:
        """Have every histogram of a kind of service from the start, so that the first value is seen as an increase."""
        for family in CATALOGUE.values():
            if family.owner == owner and family.type == "histogram":
                self.histogram(family.name)

    def counter(self, name: str, /, **labels: str) -> Counter:
        """The counter of that name and labels; `name` ends in _total."""
        return self._metric(Counter, "counter", name, labels)

    def gauge(self, name: str, /, **labels: str) -> Gauge:
        return self._metric(Gauge, "gauge", name, labels)

    def histogram(self, name: str, /, **labels: str) -> Histogram:
        return self._metric(Histogram, "histogram", name, labels)

    def _metric(self, cls: type[_MetricT], kind: str, name: str, labels: dict[str, str]) -> _MetricT:
        key = sample_name(name, tuple(labels.items()))
        found = self._metrics.get(key)
        if found is None:
            family = CATALOGUE[name]
            if family.type != kind:
                raise TypeError(f"{name} is a {family.type}, not a {kind}")
            found = Histogram(family, tuple(labels.items())) if cls is Histogram else cls(key)  # type: ignore[call-arg]
            self._metrics[key] = found
        if not isinstance(found, cls):
            raise TypeError(f"{key} is a {type(found).__name__}")
        return found

    def snapshot(self) -> dict[str, float]:
        """Every sample by its Prometheus name with labels; histograms cumulative."""
        samples: dict[str, float] = {}
        for metric in self._metrics.values():
            metric.snapshot(samples)
        return samples


def sample_name(name: str, labels: Labels = ()) -> str:
    """name{label="value",...}, values escaped as the text format asks."""
    if not labels:
        return name
    return name + "{" + ",".join(f'{key}="{_escape(value)}"' for key, value in labels) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def family_of(sample: str) -> str:
    """The family a sample belongs to, itself without labels and histogram suffix when unknown."""
    name = sample.partition("{")[0]
    if name in CATALOGUE:
        return name
    for suffix in ("_bucket", "_sum", "_count"):
        if name.endswith(suffix) and name[: -len(suffix)] in CATALOGUE:
            return name[: -len(suffix)]
    return name


def cumulative(samples: Mapping[str, float]) -> dict[str, float]:
    """Those that only grow: of counters and histograms."""
    return {sample: value for sample, value in samples.items() if _grows(sample)}


def _grows(sample: str) -> bool:
    family = CATALOGUE.get(family_of(sample))
    return family is not None and family.type in ("counter", "histogram")


def merge(snapshots: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The samples of several services as one: sums, but the largest where a sum means nothing."""
    merged: dict[str, float] = {}
    for snapshot in snapshots:
        for sample, value in snapshot.items():
            if sample not in merged:
                merged[sample] = value
            elif (family := CATALOGUE.get(family_of(sample))) is not None and family.is_merged_by_max:
                merged[sample] = max(merged[sample], value)
            else:
                merged[sample] += value
    return merged


def exposition(samples: Mapping[str, float], labels: Labels = ()) -> bytes:
    """Prometheus text format 0.0.4. `labels` are added to every `vllm:` sample (model_name)."""
    by_family: dict[str, list[str]] = {}
    for sample, value in samples.items():
        family = family_of(sample)
        line = f"{_with_labels(sample, labels) if family.startswith('vllm:') else sample} {_number(value)}"
        by_family.setdefault(family, []).append(line)
    lines: list[str] = []
    for name in sorted(by_family):
        family = CATALOGUE.get(name)
        if family is not None:
            lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.type}"]
        else:
            lines.append(f"# TYPE {name} untyped")
        lines += by_family[name]
    return ("\n".join(lines) + "\n").encode()


def _with_labels(sample: str, labels: Labels) -> str:
    if not labels:
        return sample
    name, brace, rest = sample.partition("{")
    added = sample_name("", labels)[1:-1]
    return f"{name}{{{added},{rest}" if brace else f"{name}{{{added}}}"


def _number(value: float) -> str:
    is_whole = math.isfinite(value) and float(value).is_integer() and abs(value) < 1 << 53
    return str(int(value)) if is_whole else repr(value)
