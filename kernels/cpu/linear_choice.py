"""The choice of what multiplies a model's linear layers, by a short trial on its own shapes.

What is computed with differs in the last bits, so that the choice must not hang on noise: the likely best
stays unless another is clearly faster.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from typing import NamedTuple

import torch

from .linear import Pack, PackedWeight
from .linear_fp8 import Fp8Kind

_TRIAL_ROWS = (1, 16, 128)
_TRIAL_ROUNDS = 6
_TRIAL_SECONDS = 0.2
_MAX_SIZE = 4096
"""Outputs and inputs of a trial's weights."""
_CLEARLY = 1.15
"""How many times as fast, over all row counts, what replaces the likely best must be."""


class LinearChoice(NamedTuple):
    """What a model's weights are packed for. `summary`: for people."""

    name: str
    pack: Pack
    summary: str
    pack_head: Pack | None = None
    """Of the head, where it is not packed as the rest."""
    takes_fp8: bool = False
    """Whether all but the head take QuantizedRows."""


def choose(
    kinds: Mapping[str, Pack], shapes: Collection[tuple[int, int]], dtype: torch.dtype, wanted: str
) -> LinearChoice:
    """Of `kinds` (the likely best first) the `wanted` or, if that is auto, the best for weights of `shapes`.

    Nothing is tried where the likely best is torch's own: results stay as they have been.
    Raises ValueError where what is wanted cannot be had.
    """
    if wanted != "auto":
        return _wanted(kinds, str(dtype), wanted)
    likely = next(iter(kinds))
    if likely != "native" or not shapes:
        return LinearChoice(likely, kinds[likely], likely)
    seconds = _trial(kinds, shapes, dtype)
    best = min(kinds, key=lambda name: math.prod(seconds[name]))
    gain = (math.prod(seconds[likely]) / math.prod(seconds[best])) ** (1 / len(_TRIAL_ROWS))
    name = best if gain > _CLEARLY else likely
    return LinearChoice(name, kinds[name], _summary(name, seconds))


def choose_quantized(kinds: Mapping[str, Pack], dtype: torch.dtype, wanted: str) -> LinearChoice:
    """The same of int8 weights, of which none is tried: torch's is there for want of a better one."""
    if not kinds:
        raise ValueError("there are int8 weights on a CPU only")
    if wanted == "auto":
        wanted = next(iter(kinds))
    choice = _wanted(kinds, f"{dtype} by int8", wanted)
    return choice._replace(name=f"{wanted} int8", summary=f"{wanted} int8")


def choose_fp8(kind: Fp8Kind, kinds: Mapping[str, Pack], dtype: torch.dtype, wanted: str) -> LinearChoice:
    """fp8 for all but the head, which stays as it is: an error there goes straight into every token."""
    head = _wanted(kinds, str(dtype), next(iter(kinds)) if wanted == "auto" else wanted)
    summary = f"fp8 ({kind.what}), head {head.name}"
    return LinearChoice("fp8", kind.pack, summary, pack_head=head.pack, takes_fp8=kind.has_fused)


def _wanted(kinds: Mapping[str, Pack], what: str, wanted: str) -> LinearChoice:
    if wanted not in kinds:
        raise ValueError(f"there are no {wanted} linear layers for {what} here, only {', '.join(kinds)}")
    return LinearChoice(wanted, kinds[wanted], wanted)


def _trial(
    kinds: Mapping[str, Pack], shapes: Collection[tuple[int, int]], dtype: torch.dtype
) -> dict[str, list[float]]:
    """Seconds that each kind takes for all shapes, for each of _TRIAL_ROWS."""
    cut = {(min(out_size, _MAX_SIZE), min(in_size, _MAX_SIZE)) for out_size, in_size in shapes}
    largest = sorted(cut, key=math.prod)[-4:]
    packed = {name: [pack(torch.ones(shape, dtype=dtype)) for shape in largest] for name, pack in kinds.items()}
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for num_rows in _TRIAL_ROWS:
        inputs = [torch.ones(num_rows, in_size, dtype=dtype) for _, in_size in largest]
        for weights in packed.values():
            _seconds(weights, inputs)
        rounds: list[dict[str, float]] = []
        deadline = time.perf_counter() + _TRIAL_SECONDS / len(_TRIAL_ROWS)
        # In turn, so that each finds the weights no more in the CPU's caches than a model does.
        while not rounds or (len(rounds) < _TRIAL_ROUNDS and time.perf_counter() < deadline):
            rounds.append({name: _seconds(weights, inputs) for name, weights in packed.items()})
        for name in kinds:
            found[name].append(min(each[name] for each in rounds))
    return found


def _seconds(weights: list[PackedWeight], inputs: list[torch.Tensor]) -> float:
    start = time.perf_counter()
    for weight, x in zip(weights, inputs, strict=True):
        weight.product(x)
    return time.perf_counter() - start


def _summary(name: str, seconds: Mapping[str, list[float]]) -> str:
    """native, 1.9x onednn at 1 row, 1.2x at 16, 1.0x at 128."""
    other = next((other for other in seconds if other != name), None)
    if other is None:
        return name
    ratios = [slow / fast for slow, fast in zip(seconds[other], seconds[name], strict=True)]
    first, *rest = (f"{ratio:.1f}x" for ratio in ratios)
    counts = [f"{ratio} at {count}" for ratio, count in zip(rest, _TRIAL_ROWS[1:], strict=True)]
    return ", ".join([f"{name}, {first} {other} at 1 row", *counts])
