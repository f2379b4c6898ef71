"""The checks that need the tokenizer or the model's limits: a Generate and its ids in, a Submit out.

After encoding, before the engine; past this door nobody asks again whether a request fits. Each
refusal names the field, the value and the limit. Knows no sockets and no text but the stop strings.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from quire.shared.errors import INVALID_VALUE, ApiError, prompt_too_long
from quire.shared.messages import Generate, Grammar, SamplingParams, Submit

from .token_ids import pack_ids, unpack_ids

_PIECE_BYTES = 64 << 10


class Limits(msgspec.Struct, frozen=True):
    """What the model and its deployment allow."""

    max_model_len: int
    vocab_size: int
    default_max_tokens: int | None = None
    """The checkpoint's own, where a client gives none."""
    max_chars_per_token: int | None = None


def check_text_length(text: str, limits: Limits) -> None:
    """Refuse, before it is encoded, a text that cannot fit however its tokens fall."""
    longest = limits.max_chars_per_token
    if longest is not None and len(text) > longest * limits.max_model_len:
        raise prompt_too_long(limits.max_model_len, f"at least {-(-len(text) // longest)}")


def check_ids_length(data: bytes, limits: Limits) -> None:
    """The same of packed ids, before they are unpacked."""
    if len(data) // 4 >= limits.max_model_len:
        raise prompt_too_long(limits.max_model_len, str(len(data) // 4), "prompt")


def check_sampling(generate: Generate, limits: Limits) -> None:
    """Everything that can be said without the prompt's ids."""
    sampling = generate.sampling
    check_ids("stop_token_ids", sampling.stop_token_ids, limits)
    check_ids("logit_bias", sampling.logit_bias, limits)
    check_ids("bad_token_ids", sampling.bad_token_ids, limits)
    if sampling.allowed_token_ids is not None:
        if not sampling.allowed_token_ids:
            raise ApiError(INVALID_VALUE, "allowed_token_ids is empty: no token could be sampled", "allowed_token_ids")
        check_ids("allowed_token_ids", sampling.allowed_token_ids, limits)
    if sampling.max_tokens is not None and sampling.min_tokens > sampling.max_tokens:
        raise ApiError(
            INVALID_VALUE,
            f"min_tokens is {sampling.min_tokens}, but must not exceed max_tokens, which is {sampling.max_tokens}",
            "min_tokens",
        )
    keep = generate.text.truncate_prompt_tokens
    if keep is not None and (keep == 0 or keep < -1 or keep > limits.max_model_len):
        raise ApiError(
            INVALID_VALUE,
            f"truncate_prompt_tokens is {keep}, but must be -1 (as many as fit) or between 1 and"
            f" {limits.max_model_len}, the model's maximum context length",
            "truncate_prompt_tokens",
        )
    if generate.history and len(generate.history) != generate.n:
        raise ApiError(INVALID_VALUE, f"the history has {len(generate.history)} choices, but n is {generate.n}", "n")


def check_ids(field: str, token_ids: Iterable[int], limits: Limits) -> None:
    """Refuse an id outside the vocabulary."""
    wrong = next((token_id for token_id in token_ids if not 0 <= token_id < limits.vocab_size), None)
    if wrong is not None:
        raise _not_in_vocabulary(field, wrong, limits)


def unpack_prompt(data: bytes, limits: Limits) -> list[int]:
    """The ids that a client sent as its prompt, checked; in pieces, or millions would hold up every stream."""
    if len(data) % 4:
        raise ApiError(INVALID_VALUE, "the prompt's token ids are not 32-bit integers", "prompt")
    token_ids: list[int] = []
    for start in range(0, len(data), _PIECE_BYTES):
        piece = unpack_ids(data[start : start + _PIECE_BYTES])
        if not (min(piece) >= 0 and max(piece) < limits.vocab_size):
            check_ids("prompt", piece, limits)
        token_ids += piece
    return token_ids


def make_submit(generate: Generate, prompt_ids: list[int], limits: Limits, grammar: Grammar | None = None) -> Submit:
    """Raises ApiError (400)."""
    field = "messages" if type(generate.prompt).__name__ == "ChatPrompt" else "prompt"
    prompt_ids = _truncated(generate, prompt_ids, limits)
    num_prompt = len(prompt_ids)
    if not num_prompt:
        raise ApiError(INVALID_VALUE, f"{field} is empty: it has no token", field)
    if num_prompt >= limits.max_model_len:
        raise prompt_too_long(limits.max_model_len, str(num_prompt), field)
    if max(prompt_ids) >= limits.vocab_size:
        check_ids(field, prompt_ids, limits)
    return Submit(
        request_id=generate.request_id,
        prompt_ids=pack_ids(prompt_ids),
        n=generate.n,
        sampling=_resolved(generate.sampling, num_prompt, limits),
        priority=generate.priority,
        arrival=generate.arrival,
        cache_salt=generate.cache_salt,
        history=generate.history,
        is_suspect=generate.is_suspect,
        max_queue_seconds=generate.max_queue_seconds,
        grammar=grammar,
    )


def _truncated(generate: Generate, prompt_ids: list[int], limits: Limits) -> list[int]:
    """The last (or first) truncate_prompt_tokens of the prompt; -1 leaves room for max_tokens, or for one."""
    keep = generate.text.truncate_prompt_tokens
    if keep is None:
        return prompt_ids
    if keep == -1:
        keep = max(1, limits.max_model_len - max(1, generate.sampling.max_tokens or 1))
    return prompt_ids[:keep] if generate.text.keeps_start else prompt_ids[-keep:]


def _resolved(sampling: SamplingParams, num_prompt: int, limits: Limits) -> SamplingParams:
    """With max_tokens a number that fits."""
    room = limits.max_model_len - num_prompt
    wanted = sampling.max_tokens
    if wanted is None:
        wanted = room if limits.default_max_tokens is None else max(limits.default_max_tokens, sampling.min_tokens)
    max_tokens = min(wanted, room)
    if sampling.min_tokens > max_tokens:
        raise ApiError(
            INVALID_VALUE,
            f"min_tokens is {sampling.min_tokens}, but after a prompt of {num_prompt} tokens the model's maximum"
            f" context length, {limits.max_model_len}, leaves room for {room}",
            "min_tokens",
        )
    if max_tokens == sampling.max_tokens:
        return sampling
    return msgspec.structs.replace(sampling, max_tokens=max_tokens)


def _not_in_vocabulary(field: str, token_id: int, limits: Limits) -> ApiError:
    return ApiError(
        INVALID_VALUE,
        f"{field} contains token id {token_id}, but the vocabulary's ids are 0 to {limits.vocab_size - 1}",
        field,
    )
