"""A request's beam search: its fields, and what cannot be combined with it.

Checked with the other fields (protocol.py), resolved when the model is known (generation.py). What would have no
effect on beams is refused, never ignored. Knows no search.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from quire.shared.beam_search import BeamSearch, EarlyStopping
from quire.shared.errors import INVALID_VALUE, UNSUPPORTED_PARAMETER, ApiError
from quire.shared.messages import Generate, ModelCard

from .bounds import out_of_bounds

if TYPE_CHECKING:
    from .protocol import GenerationRequest

MAX_BEAMS = 32
"""Of a prompt. Each step brings at least twice the square of it in candidates up the chain."""
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "temperature": (0, 1), "top_p": (1,), "top_k": (0, -1), "min_p": (0,), "presence_penalty": (0,),
    "frequency_penalty": (0,), "repetition_penalty": (1,), "min_tokens": (0,), "stop": ([],), "stop_token_ids": ([],),
    "logit_bias": ({},), "allowed_token_ids": (), "bad_words": ([],), "prompt_logprobs": (),
}  # fmt: skip
"""Fields that beams do not follow, and values of them that ask for nothing."""


class BeamParams(msgspec.Struct, frozen=True):
    """As transformers' generate(num_beams=width, ...) has it."""

    width: int
    max_tokens: int | None
    """None: as many as fit."""
    length_penalty: float
    early_stopping: EarlyStopping
    eos_token_ids: list[int]
    n: int
    """Best beams to give."""
    logprobs: int | None
    """As SamplingParams has it."""

    def search(self, max_tokens: int) -> BeamSearch:
        return BeamSearch(self.width, max_tokens, self.eos_token_ids, self.length_penalty, self.early_stopping)


def check_beams(request: GenerationRequest) -> None:
    """What can be said of the fields alone. Raises ApiError."""
    if not request.use_beam_search:
        _check_unused(request)
        return
    if request.beam_width is not None and request.best_of not in (None, request.beam_width):
        raise _clash("best_of", "is the older name of beam_width, which is given too")
    if request.width < request.num_choices:
        name = "best_of" if request.beam_width is None else "beam_width"
        raise out_of_bounds(name, f"must be at least n ({request.num_choices}), got {request.width}")
    if request.width > MAX_BEAMS:
        name = "beam_width" if request.beam_width else "best_of" if request.best_of else "n"
        raise out_of_bounds(name, f"must be at most {MAX_BEAMS} with use_beam_search, got {request.width}")
    for name, harmless in _WITHOUT_EFFECT.items():
        value = getattr(request, name, None)
        if value is not None and value not in harmless:
            raise _clash(name, "has no effect on beams, which follow the model's own probabilities")
    if request.echo and getattr(request, "logprobs", None) is not None:
        raise _clash("echo", "with logprobs wants those of the prompt, which beams do not have")
    if request.max_tokens == 0:
        raise _clash("max_tokens", "of 0 leaves nothing to search")


def _check_unused(request: GenerationRequest) -> None:
    """Fields of beams, in a request without them."""
    asks_for_nothing = {"beam_width": (None,), "length_penalty": (None, 1.0), "early_stopping": (None, False)}
    for name, values in asks_for_nothing.items():
        if getattr(request, name) not in values:
            raise ApiError(INVALID_VALUE, f"{name} is of beam search: it needs use_beam_search: true.", name)


def beams_of(
    request: GenerationRequest, generates: list[Generate], max_tokens: int | None, card: ModelCard
) -> BeamParams | None:
    """The search that a checked request asks for; None: it asks for none. Raises ApiError."""
    if not request.use_beam_search:
        return None
    constraint = generates[0].constraint
    if constraint is not None:
        raise _clash(constraint.field, "cannot be enforced on beams")
    params = BeamParams(
        width=request.width,
        max_tokens=max_tokens,
        length_penalty=1.0 if request.length_penalty is None else request.length_penalty,
        early_stopping="never" if request.early_stopping == "never" else bool(request.early_stopping),
        eos_token_ids=[] if request.ignore_eos else card.eos_token_ids,
        n=request.num_choices,
        logprobs=generates[0].sampling.logprobs,
    )
    if params.search(1).num_candidates > card.vocab_size:
        raise out_of_bounds("beam_width", f"is too large for a vocabulary of {card.vocab_size}, got {params.width}")
    return params


def _clash(name: str, why: str) -> ApiError:
    message = f"{name} cannot be combined with use_beam_search: it {why}. Please leave one of them out."
    return ApiError(UNSUPPORTED_PARAMETER, message, name)
