"""From a request's fields to the parameters that travel down: every default filled in.

Between protocol.py and the tokenizer. Fields win over the checkpoint's defaults, those over ours.
Knows nothing of HTTP.
"""

from __future__ import annotations

import secrets

from quire.shared.messages import ModelCard, SamplingParams, TextParams

from .bounds import out_of_bounds
from .chat_protocol import ChatRequest
from .completion_protocol import DEFAULT_MAX_TOKENS, CompletionRequest
from .protocol import GenerationRequest

_LOWEST_TEMPERATURE = 0.01
"""Between this and 0 logits would overflow; 0 itself is greedy."""
_SEED_MASK = (1 << 64) - 1


def sampling_params(request: ChatRequest | CompletionRequest, card: ModelCard) -> SamplingParams:
    """All resolved but max_tokens, whose None means as many as fit. Raises ApiError."""
    defaults = card.defaults
    max_tokens = max_tokens_of(request, card)
    min_tokens = request.min_tokens or 0
    if max_tokens is not None and min_tokens > max(max_tokens, 1):
        raise out_of_bounds("min_tokens", f"must be at most max_tokens ({max_tokens}), got {min_tokens}")
    temperature = _first(request.temperature, defaults.temperature, 1.0)
    if 0 < temperature < _LOWEST_TEMPERATURE:
        temperature = _LOWEST_TEMPERATURE
    is_greedy = temperature == 0
    top_k = max(int(_first(request.top_k, defaults.top_k, 0)), 0)
    logprobs = logprobs_of(request)
    prompt_logprobs = request.prompt_logprobs
    if isinstance(request, CompletionRequest) and request.echo and logprobs is not None:
        prompt_logprobs = max(logprobs, prompt_logprobs or 0)
    if logprobs is None and request.num_drawn > request.num_choices:
        logprobs = 0  # to know the best by
    return SamplingParams(
        max_tokens=1 if max_tokens == 0 else max_tokens,
        min_tokens=min_tokens,
        temperature=temperature,
        top_k=0 if is_greedy or top_k >= card.vocab_size else top_k,
        top_p=1.0 if is_greedy else _first(request.top_p, defaults.top_p, 1.0),
        min_p=0.0 if is_greedy else _first(request.min_p, defaults.min_p, 0.0),
        presence_penalty=request.presence_penalty or 0.0,
        frequency_penalty=request.frequency_penalty or 0.0,
        repetition_penalty=_first(request.repetition_penalty, defaults.repetition_penalty, 1.0),
        seed=secrets.randbits(64) if request.seed is None else request.seed & _SEED_MASK,
        ignore_eos=bool(request.ignore_eos),
        stop_token_ids=request.stop_token_ids or [],
        logit_bias={int(key): value for key, value in (request.logit_bias or {}).items()},
        allowed_token_ids=request.allowed_token_ids,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
    )


def max_tokens_of(request: ChatRequest | CompletionRequest, card: ModelCard) -> int | None:
    """The limit asked for. 0: only score the prompt (one token is then run and not shown)."""
    if isinstance(request, CompletionRequest):
        return DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
    if request.max_completion_tokens is not None:
        return request.max_completion_tokens
    return request.max_tokens if request.max_tokens is not None else card.defaults.max_tokens


def logprobs_of(request: ChatRequest | CompletionRequest) -> int | None:
    """None: none; 0: of the sampled token only; k: and of the k likeliest."""
    if isinstance(request, CompletionRequest):
        return request.logprobs
    return (request.top_logprobs or 0) if request.logprobs else None


def text_params(request: GenerationRequest, markers: list[str]) -> TextParams:
    """What the tokenizer needs to know to turn tokens into text; `markers`: of the answer's parser."""
    return TextParams(
        stop=request.stop_strings,
        include_stop_str_in_output=bool(request.include_stop_str_in_output),
        skip_special_tokens=request.skip_special_tokens is not False,
        spaces_between_special_tokens=request.spaces_between_special_tokens is not False,
        truncate_prompt_tokens=request.truncate_prompt_tokens,
        return_prompt_ids=bool(request.return_token_ids),
        return_prompt_text=isinstance(request, CompletionRequest) and bool(request.echo),
        shown_specials=markers,
        bad_words=request.bad_words or [],
        keeps_start=request.truncation_side == "right",
    )


def _first(*values: float | None) -> float:
    """The first that is not None."""
    return next(value for value in values if value is not None)
