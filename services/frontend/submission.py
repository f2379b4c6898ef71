"""From a parsed request to what goes down for it and what its answer will need.

Between the protocol files and generation.py: everything that depends on the served model and on flags, but
not yet on a prompt's tokens. Knows no connection but the caller's key.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import TYPE_CHECKING

from quire.shared.errors import INVALID_VALUE, MODEL_NOT_FOUND, ApiError, echo
from quire.shared.messages import ChatPrompt, Constraint, Generate, ModelCard, Prompt

from .answers import Asked
from .call_constraints import answer_constraint
from .chat_protocol import ChatRequest, echoed_text
from .constraints import constraint_of
from .exchange import Exchange
from .parsed_request import ParsedRequest
from .protocol import PRIORITY, unsupported
from .sampling import logprobs_of, max_tokens_of, sampling_params, text_params

if TYPE_CHECKING:
    from .app import Application

_PRIORITY_HEADER = b"x-vllm-priority"


def generates_of(
    app: Application, exchange: Exchange, parsed: ParsedRequest, card: ModelCard, arrival: float
) -> list[Generate]:
    """What goes down: one message a prompt. Raises ApiError."""
    request, parsing = parsed.request, parsed.parsing(card)
    if request.model and request.model not in card.names:
        message = f"The model {echo(request.model)!r} does not exist; this server has: {', '.join(card.names)}."
        raise ApiError(MODEL_NOT_FOUND, message, "model")
    check_template(app, parsed.prompts[0])
    sampling = sampling_params(request, card)
    text = text_params(request, parsing.markers if parsing is not None else [])
    constraint = _constraint(parsed, card)
    app.metrics.histogram("vllm:request_params_n").observe(request.num_choices)
    if (max_tokens := max_tokens_of(request, card)) is not None:
        app.metrics.histogram("vllm:request_params_max_tokens").observe(max_tokens)
    salt = request.cache_salt or ""
    if app.keys.are_several:
        salt = f"{exchange.key_name}:{salt}"  # callers with different keys share no cached prefix
    priority, max_queue = _priority(request.priority, exchange), app.config.queue_timeout
    return [
        # Once the first prompt runs, the others may wait: their answer has begun.
        Generate(
            app.ids.next(), prompt, request.num_drawn, sampling, text, priority, arrival,
            cache_salt=salt, max_queue_seconds=0.0 if position else max_queue, constraint=constraint,
        )
        for position, prompt in enumerate(parsed.prompts)
    ]  # fmt: skip


def check_template(app: Application, prompt: Prompt) -> None:
    """Refuse a client's own template where the operator has not allowed them. Raises ApiError."""
    if isinstance(prompt, ChatPrompt) and prompt.chat_template and not app.config.trust_request_chat_template:
        raise unsupported("chat_template", "(started without --trust-request-chat-template)")


def _priority(of_body: int | None, exchange: Exchange) -> int:
    """The body's, or that of the header which gateways set. Raises ApiError."""
    header = exchange.header(_PRIORITY_HEADER)
    if of_body is not None or header is None:
        return of_body or 0
    text = header.decode("latin-1").strip()
    if re.fullmatch(r"[+-]?[0-9]{1,10}", text) is None or not PRIORITY.ge <= int(text) <= PRIORITY.le:
        message = f"The header X-Vllm-Priority must be a whole number of 32 bits, got {echo(text)}."
        raise ApiError(INVALID_VALUE, message, "priority")
    return int(text)


def _constraint(parsed: ParsedRequest, card: ModelCard) -> Constraint | None:
    """Of the fields that say what an answer must be, and of calls."""
    return answer_constraint(constraint_of(parsed.request), card.tool_format, parsed.tools)


def asked_of(answer_id: str, parsed: ParsedRequest, card: ModelCard, arrival: float) -> Asked:
    request = parsed.request
    return Asked(
        id=answer_id,
        model=request.model or card.names[0],
        created=int(arrival),
        fingerprint=_fingerprint_of(card),
        num_prompts=len(parsed.prompts),
        n=request.num_choices,
        num_drawn=request.num_drawn,
        has_usage=request.includes_usage,
        has_continuous_usage=request.has_continuous_usage,
        logprobs=logprobs_of(request),
        has_prompt_logprobs=request.prompt_logprobs is not None,
        is_echoed=bool(request.echo),
        is_scoring=max_tokens_of(request, card) == 0,
        writes_token_ids=bool(request.return_tokens_as_token_ids),
        returns_token_ids=bool(request.return_token_ids),
        tokens_per_chunk=request.tokens_per_chunk,
        echoed_text=echoed_text(request) if isinstance(request, ChatRequest) else "",
        parsing=parsed.parsing(card),
    )


def _fingerprint_of(card: ModelCard) -> str:
    """Stays the same as long as the same model is served."""
    return _fingerprint(card.root, card.vocab_size, card.max_model_len)


@functools.cache
def _fingerprint(root: str, vocab_size: int, max_model_len: int) -> str:
    digest = hashlib.sha256(f"{root}\0{vocab_size}\0{max_model_len}".encode()).hexdigest()
    return f"fp_{digest[:12]}"
