"""Fields of generation requests that are known and do not act: refused where they ask for something, or unused.

Refused is what would change an answer that then is not as asked: each with what to send instead, where there is
something. Unused is what clients send for a provider's books or caches. Part of GenerationRequest (protocol.py).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from .bounds import Items, Json, Text

_ABSENT = msgspec.Raw()
_MAX_BYTES = 64 << 10
_NAME = Text(0, 512)
PLAIN = Items(0, 64, keys=Text(0, 256))
"""An object that nothing looks into."""


def refused(instead: str = "", *nothing: str) -> Json:
    """`instead`: what a refusal says behind a colon; `nothing`: JSON that asks for nothing, beside what is empty."""
    return Json(_MAX_BYTES, is_refused=True, instead=instead, nothing=nothing)


_CONSTRAINT = "structured_outputs says what an answer must be"
_PLUGIN = "there are no plug-ins"
_ONE_SERVER = "prompts are computed where answers are"


class OtherFields(msgspec.Struct, kw_only=True):
    """Of chat and text completions."""

    user: Annotated[str | None, _NAME] = None
    metadata: Annotated[dict[str, str] | None, Items(0, 16, Text(0, 512), keys=Text(0, 64))] = None
    store: bool | None = None
    service_tier: Annotated[str | None, Text(0, 64)] = None
    safety_identifier: Annotated[str | None, Text(0, 128)] = None
    prompt_cache_key: Annotated[str | None, _NAME] = None
    prompt_cache_retention: Annotated[str | None, Text(0, 64)] = None
    prompt_cache_options: Annotated[dict[str, Any] | None, PLAIN] = None
    session_id: Annotated[str | None, _NAME] = None
    guided_decoding_backend: Annotated[str | None, Text(0, 256)] = None
    """There is one, and what it enforces does not depend on its name."""
    vllm_xargs: Annotated[dict[str, Any] | None, PLAIN] = None

    guided_whitespace_pattern: Annotated[msgspec.Raw, refused("JSON is compact")] = _ABSENT
    regex: Annotated[msgspec.Raw, refused(_CONSTRAINT)] = _ABSENT
    ebnf: Annotated[msgspec.Raw, refused(_CONSTRAINT)] = _ABSENT
    grammar: Annotated[msgspec.Raw, refused(_CONSTRAINT)] = _ABSENT
    json_schema: Annotated[msgspec.Raw, refused("response_format or " + _CONSTRAINT)] = _ABSENT
    logits_processors: Annotated[msgspec.Raw, refused(_PLUGIN)] = _ABSENT
    logit_processors: Annotated[msgspec.Raw, refused(_PLUGIN)] = _ABSENT
    logprob_token_ids: Annotated[msgspec.Raw, refused("logprobs gives the likeliest tokens")] = _ABSENT
    repetition_detection: Annotated[msgspec.Raw, refused("repetition_penalty and frequency_penalty work")] = _ABSENT
    thinking_token_budget: Annotated[msgspec.Raw, refused("reasoning_effort reaches the template", "-1")] = _ABSENT
    watermarking: Annotated[msgspec.Raw, refused()] = _ABSENT
    kv_transfer_params: Annotated[msgspec.Raw, refused(_ONE_SERVER)] = _ABSENT
    ec_transfer_params: Annotated[msgspec.Raw, refused(_ONE_SERVER)] = _ABSENT
