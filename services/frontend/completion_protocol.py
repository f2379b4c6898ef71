"""A text completion's request: its fields and the prompts it carries.

Decodes the body of POST /v1/completions: one text, one list of token ids, or a list of either.
Knows nothing of tokens but that they are numbers, and how many the model takes.
"""

from __future__ import annotations

import array
import sys
from typing import Annotated

import msgspec

from quire.shared.errors import INVALID_TYPE, INVALID_VALUE, MISSING_PARAMETER, ApiError, prompt_too_long
from quire.shared.messages import IdsPrompt, ModelCard, Prompt, TextPrompt

from .bounds import MAX_ID, Items, Json, Number, Text, out_of_bounds
from .field_limits import flag, most
from .id_lists import MAX_PROMPT_IDS, is_long, packed_ids
from .protocol import (
    ABSENT,
    LOGPROBS,
    GenerationRequest,
    check_shared,
    decode,
    decode_part,
    json_of,
)

DEFAULT_MAX_TOKENS = 16
_MAX_TEXT_BYTES = 64 << 20
"""The body's own limit is lower and decides."""
_TEXT = Text(1, _MAX_TEXT_BYTES)
_IDS = Items(1, MAX_PROMPT_IDS, Number(0, MAX_ID))
_ONE_TEXT = Annotated[str, _TEXT]
_TEXTS = Annotated[list[str], Items(1, of=_TEXT, setting="max_choices")]
_ONE_IDS = Annotated[list[int], _IDS]
_MANY_IDS = Annotated[list[list[int]], Items(1, of=_IDS, setting="max_choices")]
_LISTS = Annotated[list[msgspec.Raw], Items(1, setting="max_choices")]
_Prompt = _ONE_TEXT | _TEXTS | _ONE_IDS | _MANY_IDS


_NO_SUFFIX = "write the model's own fill-in-the-middle tokens around both parts, as token ids in prompt"


class CompletionRequest(GenerationRequest, kw_only=True):
    """The body of POST /v1/completions."""

    prompt: Annotated[msgspec.Raw, Json(_MAX_TEXT_BYTES, _Prompt, is_required=True)] = ABSENT
    logprobs: Annotated[int | None, LOGPROBS] = None
    suffix: Annotated[msgspec.Raw, Json(_MAX_TEXT_BYTES, is_refused=True, instead=_NO_SUFFIX)] = ABSENT
    prompt_embeds: Annotated[msgspec.Raw, Json(_MAX_TEXT_BYTES, is_refused=True, instead="send prompt")] = ABSENT


_decoder = msgspec.json.Decoder(CompletionRequest)


def parse_completion(body: bytes, card: ModelCard | None = None) -> tuple[CompletionRequest, list[Prompt]]:
    """The checked request and its prompts, in order. Raises ApiError, early for what cannot fit the model of `card`."""
    request = decode(body, _decoder)
    check_shared(request)
    if request.max_tokens == 0 and not request.echo:
        raise out_of_bounds("max_tokens", "must be at least 1; 0 is allowed only with echo: true")
    if request.truncate_prompt_tokens is not None:
        card = None
    prompts = _prompts(json_of(request.prompt), request.add_special_tokens is not False, card)
    max_choices = most("max_choices")
    if len(prompts) * request.width > max_choices:
        name = "n" if request.best_of is None else "best_of"
        what = f"{request.width} beams" if request.use_beam_search else f"{name} of {request.width}"
        message = f"{len(prompts)} prompts x {what} are more than {max_choices} answers ({flag('max_choices')})."
        raise ApiError(INVALID_VALUE, message, name)
    return request, prompts


def _prompts(raw: bytes, add_special_tokens: bool, card: ModelCard | None) -> list[Prompt]:
    if not raw:
        raise ApiError(MISSING_PARAMETER, "prompt is required.", "prompt")
    max_model_len = card.max_model_len if card is not None else None
    if raw[:1] == b'"':
        if card is not None:
            _check_length(raw, card)
        return [TextPrompt(decode_part(raw, _ONE_TEXT, "prompt"), add_special_tokens)]
    inside = raw[1:].lstrip()[:1]
    if raw[:1] != b"[":
        raise ApiError(INVALID_TYPE, "prompt must be a string, a list of strings, or token ids.", "prompt")
    if inside == b'"':
        return [TextPrompt(text, add_special_tokens) for text in decode_part(raw, _TEXTS, "prompt")]
    if inside == b"[" and is_long(raw):
        return [
            IdsPrompt(packed_ids(bytes(one), _ONE_IDS, max_model_len)) for one in decode_part(raw, _LISTS, "prompt")
        ]
    if inside == b"[":
        return [ids_prompt(ids) for ids in decode_part(raw, _MANY_IDS, "prompt")]
    return [IdsPrompt(packed_ids(raw, _ONE_IDS, max_model_len))]


def _check_length(raw: bytes, card: ModelCard) -> None:
    """Refuse a text that cannot fit however its tokens fall: the tokenizer's check, before megabytes are sent there.

    `raw`: a JSON string. One with escapes has fewer characters, and is left to the tokenizer.
    """
    longest, length = card.max_chars_per_token, len(raw) - 2
    if longest is None or length <= longest * card.max_model_len or b"\\" in raw or not raw.isascii():
        return
    raise prompt_too_long(card.max_model_len, f"at least {-(-length // longest)}")


def ids_prompt(ids: list[int]) -> IdsPrompt:
    """Checked ids as a prompt."""
    packed = array.array("i", ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return IdsPrompt(packed.tobytes())
