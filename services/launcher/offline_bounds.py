"""Bounds of the offline API's parameters, checked where they are made: a bad one is its caller's, at once.

What the checkpoint decides (vocabulary, length) is the tokenizer's to check. Knows no message.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_MAX_INT32 = 2**31 - 1
_MAX_BIAS = 100


class Bound(NamedTuple):
    """Of a number; None lets it be absent."""

    low: float
    high: float = math.inf
    is_whole: bool = False
    excludes_low: bool = False

    def check(self, name: str, given: Any) -> None:
        """Raises TypeError or ValueError. Numbers of numpy are numbers."""
        value = _number(given, numbers.Integral if self.is_whole else numbers.Real)
        if value is None:
            raise TypeError(f"{name} is {given!r}; it must be {'an integer' if self.is_whole else 'a number'}")
        is_high_enough = value > self.low if self.excludes_low else value >= self.low
        if not (is_high_enough and value <= self.high and (self.is_whole or math.isfinite(value))):
            raise ValueError(f"{name} is {value}; it must be {self._sentence()}")

    def _sentence(self) -> str:
        low = f"above {self.low:g}" if self.excludes_low else f"at least {self.low:g}"
        return low if self.high == math.inf else f"{low} and at most {self.high:.10g}"


def _number(given: Any, kind: type) -> float | None:
    is_number = isinstance(given, kind) and not isinstance(given, bool)
    return (int(given) if kind is numbers.Integral else float(given)) if is_number else None


_WHOLE = Bound(0, _MAX_INT32, is_whole=True)
BOUNDS = {
    "n": Bound(1, _MAX_INT32, is_whole=True),
    "max_tokens": _WHOLE,
    "min_tokens": _WHOLE,
    "temperature": Bound(0),
    "top_p": Bound(0, 1, excludes_low=True),
    "top_k": Bound(-1, _MAX_INT32, is_whole=True),
    "min_p": Bound(0, 1),
    "repetition_penalty": Bound(0, 10, excludes_low=True),
    "presence_penalty": Bound(-2, 2),
    "frequency_penalty": Bound(-2, 2),
    "seed": Bound(-math.inf, is_whole=True),
    "logprobs": _WHOLE,
    "prompt_logprobs": _WHOLE,
    "truncate_prompt_tokens": Bound(-1, _MAX_INT32, is_whole=True),
    "priority": Bound(-(2**31), _MAX_INT32, is_whole=True),
}
"""As the API has them, but for what only servers limit."""


def check_numbers(params: Any, optional: Sequence[str]) -> None:
    """Each number of `params` that has a bound; those of `optional` may be None. Raises TypeError or ValueError."""
    for name, bound in BOUNDS.items():
        value = getattr(params, name)
        if value is not None or name not in optional:
            bound.check(name, value)


def check_strings(name: str, given: Any) -> None:
    """One, or several, none of them empty."""
    strings = [given] if isinstance(given, str) else given
    if not isinstance(strings, Sequence) or not all(isinstance(one, str) for one in strings):
        raise TypeError(f"{name} is {given!r}; it must be a string, or several")
    if "" in strings:
        raise ValueError(f"{name} has an empty string")


def check_ids(name: str, given: Any) -> None:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise TypeError(f"{name} is {given!r}; it must be a list of token ids")
    for token_id in given:
        _WHOLE.check(f"an id in {name}", token_id)


def check_bias(name: str, given: Any) -> None:
    if not isinstance(given, Mapping):
        raise TypeError(f"{name} is {given!r}; it must map token ids to numbers")
    for token_id, bias in given.items():
        _WHOLE.check(f"an id in {name}", token_id)
        Bound(-_MAX_BIAS, _MAX_BIAS).check(f"{name}[{token_id}]", bias)
