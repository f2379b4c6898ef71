"""best_of: more answers are drawn than given; those given are the likeliest, token for token on average.

Checked with the other fields (protocol.py); chosen when all have ended (generation.py). As OpenAI has it: by the mean
logprob of a choice's tokens, from the raw logits. Knows no connection.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from quire.shared.errors import INVALID_VALUE, ApiError

from .bounds import out_of_bounds
from .mailbox import Delta

if TYPE_CHECKING:
    from .protocol import GenerationRequest


def check_best_of(request: GenerationRequest) -> None:
    """Raises ApiError. With use_beam_search it is the beams' number: see beam_params.py."""
    if request.best_of is None or request.use_beam_search:
        return
    if request.best_of < request.num_choices:
        raise out_of_bounds("best_of", f"must be at least n ({request.num_choices}), got {request.best_of}")
    if request.stream and request.best_of > request.num_choices:
        message = "best_of above n is not available with stream: true: the best are known when all have ended."
        raise ApiError(INVALID_VALUE, message, "best_of")


def best(choices: list[Delta], num_drawn: int, n: int) -> list[Delta]:
    """The best n of every `num_drawn` whole choices, best first, renumbered. Equally good ones stay in order."""
    given: list[Delta] = []
    for first in range(0, len(choices), num_drawn):
        drawn = choices[first : first + num_drawn]
        ranked = sorted(drawn, key=_mean_logprob, reverse=True)[:n]
        # What is told of the prompt comes with its first choice.
        scores = {"prompt_tokens": drawn[0].prompt_tokens, "prompt_top": drawn[0].prompt_top}
        given.append(msgspec.structs.replace(ranked[0], index=len(given), **scores))
        for choice in ranked[1:]:
            given.append(msgspec.structs.replace(choice, index=len(given), prompt_tokens=None, prompt_top=None))
    return given


def _mean_logprob(choice: Delta) -> float:
    if not choice.tokens:
        return -math.inf
    return sum(entry.logprob for entry in choice.tokens) / len(choice.tokens)
