"""A text completion's request: its fields and the prompts it carries.

Decodes the body of POST /v1/completions: one text, one list of token ids, or a list of either.
Knows nothing of tokens but that they are numbers.
"""

from __future__ import annotations

import array
import sys
from typing import Annotated

import msgspec

from quire.shared.errors import INVALID_TYPE, INVALID_VALUE, MISSING_PARAMETER, ApiError
from quire.shared.messages import IdsPrompt, Prompt, TextPrompt

from .bounds import MAX_ID, Json, Number, Text, out_of_bounds
from .protocol import (
    ABSENT,
    MAX_CHOICES,
    MAX_LOGPROBS,
    GenerationRequest,
    check_shared,
    decode,
    decode_part,
    json_of,
    unsupported,
)

DEFAULT_MAX_TOKENS = 16


class CompletionRequest(GenerationRequest, kw_only=True):
    """The body of POST /v1/completions."""

    prompt: Annotated[msgspec.Raw, Json(64 << 20)] = ABSENT
    """The body's own limit is lower and decides."""
    logprobs: Annotated[int | None, Number(0, MAX_LOGPROBS)] = None
    suffix: Annotated[str | None, Text(0, 64 << 20)] = None
    prompt_embeds: Annotated[msgspec.Raw, Json(64 << 20)] = ABSENT


_decoder = msgspec.json.Decoder(CompletionRequest)


def parse_completion(body: bytes) -> tuple[CompletionRequest, list[Prompt]]:
    """The checked request and its prompts, in order. Raises ApiError."""
    request = decode(body, _decoder)
    check_shared(request)
    if request.suffix:
        raise unsupported("suffix")
    if json_of(request.prompt_embeds):
        raise unsupported("prompt_embeds")
    if request.max_tokens == 0 and not request.echo:
        raise out_of_bounds("max_tokens", "must be at least 1; 0 is allowed only with echo: true")
    prompts = _prompts(json_of(request.prompt), request.add_special_tokens is not False)
    if len(prompts) * request.num_choices > MAX_CHOICES:
        message = f"{len(prompts)} prompts x n of {request.num_choices} are more than {MAX_CHOICES} answers."
        raise ApiError(INVALID_VALUE, message, "n")
    return request, prompts


def _prompts(raw: bytes, add_special_tokens: bool) -> list[Prompt]:
    if not raw:
        raise ApiError(MISSING_PARAMETER, "prompt is required.", "prompt")
    if raw[:1] == b'"':
        return [_text(decode_part(raw, str, "prompt"), "prompt", add_special_tokens)]
    inside = raw[1:].lstrip()[:1]
    if raw[:1] != b"[":
        raise ApiError(INVALID_TYPE, "prompt must be a string, a list of strings, or token ids.", "prompt")
    if inside == b"]":
        raise out_of_bounds("prompt", "must not be empty")
    if inside == b'"':
        texts = decode_part(raw, list[str], "prompt")
        _check_number(len(texts))
        return [_text(text, f"prompt[{i}]", add_special_tokens) for i, text in enumerate(texts)]
    if inside == b"[":
        lists = decode_part(raw, list[list[int]], "prompt")
        _check_number(len(lists))
        return [_ids(ids, f"prompt[{i}]") for i, ids in enumerate(lists)]
    return [_ids(decode_part(raw, list[int], "prompt"), "prompt")]


def _check_number(number: int) -> None:
    if number > MAX_CHOICES:
        raise out_of_bounds("prompt", f"must have at most {MAX_CHOICES} prompts, got {number}")


def _text(text: str, path: str, add_special_tokens: bool) -> TextPrompt:
    if not text:
        raise out_of_bounds(path, "must not be empty")
    return TextPrompt(text, add_special_tokens)


def _ids(ids: list[int], path: str) -> IdsPrompt:
    if not ids:
        raise out_of_bounds(path, "must not be empty")
    low, high = min(ids), max(ids)
    if low < 0 or high > MAX_ID:
        raise out_of_bounds(path, f"must hold token ids in [0, {MAX_ID}], got {low if low < 0 else high}")
    packed = array.array("i", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return IdsPrompt(packed.tobytes())
