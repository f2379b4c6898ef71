"""A draw from a row whose likeliest candidates do not decide it: exact, over the whole vocabulary, unsorted.

Tokens are put into buckets by their logits, so that only the buckets in which a cut or the draw falls are
sorted: what comes out is what sorting the row would give, at a fraction of the time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_NUM_BUCKETS = 4096
_DEEPEST = 60.0
"""Nats below the likeliest token; what is further down (e^-60 of its mass) shares one bucket."""

Floats = npt.NDArray[np.float64]
Ids = npt.NDArray[np.intp]


class _Row(NamedTuple):
    depths: npt.NDArray[np.float32]
    """[V]: how far below the likeliest."""
    weights: Floats
    """[V]: exp(-depth), 0 for what has been cut off."""
    buckets: npt.NDArray[np.int32]
    """[V]: grows with depth."""

    def members(self, bucket: int) -> Ids:
        """Ids in a bucket that have not been cut off, likeliest first."""
        found = np.flatnonzero((self.buckets == bucket) & (self.weights > 0))
        return found[np.argsort(self.depths[found], kind="stable")]


def draw_exactly(logits: npt.NDArray[np.float32], top_k: int, top_p: float, min_p: float, uniform: float) -> int:
    """One token of logits [V], already divided by the temperature; parameters as in kernels.sample."""
    row = _bucketed(logits, min_p)
    if top_k:
        _keep_top_k(row, top_k)
    masses = np.bincount(row.buckets, weights=row.weights, minlength=_NUM_BUCKETS)
    cumulative = np.cumsum(masses)
    total = float(cumulative[-1])
    if top_p < 1:
        bucket = int(np.searchsorted(cumulative, total * top_p))
        inner = _inner(row, masses, cumulative, bucket)[1]
        total = float(inner[min(int(np.searchsorted(inner, total * top_p)), len(inner) - 1)])
    bucket = int(np.searchsorted(cumulative, uniform * total, side="right"))
    # Rounding may put the target at the very end.
    bucket = min(bucket, int(np.flatnonzero(masses)[-1]))
    members, inner = _inner(row, masses, cumulative, bucket)
    return int(members[min(int(np.searchsorted(inner, uniform * total, side="right")), len(members) - 1)])


def _bucketed(logits: npt.NDArray[np.float32], min_p: float) -> _Row:
    depths = logits.max() - logits
    weights = np.exp(-depths.astype(np.float64))
    if min_p > 0:
        weights[weights < min_p] = 0.0
    scale = np.float32(_NUM_BUCKETS / _DEEPEST)
    return _Row(depths, weights, np.minimum(depths * scale, _NUM_BUCKETS - 1).astype(np.int32))


def _keep_top_k(row: _Row, top_k: int) -> None:
    counts = np.cumsum(np.bincount(row.buckets[row.weights > 0], minlength=_NUM_BUCKETS))
    bucket = int(np.searchsorted(counts, top_k))
    if bucket < _NUM_BUCKETS:
        num_before = int(counts[bucket - 1]) if bucket else 0
        row.weights[row.members(bucket)[top_k - num_before :]] = 0.0
        row.weights[row.buckets > bucket] = 0.0


def _inner(row: _Row, masses: npt.NDArray[Any], cumulative: npt.NDArray[Any], bucket: int) -> tuple[Ids, Floats]:
    """A bucket's members, and the mass of all up to each."""
    members = row.members(bucket)
    return members, cumulative[bucket] - masses[bucket] + np.cumsum(row.weights[members])
