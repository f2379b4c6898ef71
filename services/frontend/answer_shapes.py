"""The shapes of all answers, for the OpenAPI document: what chat.py, completions.py and operations.py write.

They write bytes, not these structs, since a stream's chunks are made of constant parts; tests decode
real answers as these shapes, with no unknown field allowed. Knows no request.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Shape(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An object of an answer. Fields with a default may be absent."""


class ErrorDetail(Shape):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(Shape):
    """Every error, whatever its status."""

    error: ErrorDetail


class PromptTokensDetails(Shape):
    cached_tokens: int


class CompletionTokensDetails(Shape):
    reasoning_tokens: int


class Usage(Shape):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | None = None


class TopLogprob(Shape):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(Shape):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Shape):
    content: list[TokenLogprob]
    refusal: None


class PromptLogprob(Shape):
    logprob: float
    rank: int
    decoded_token: str


PromptLogprobs = list[dict[str, PromptLogprob] | None]


class CalledFunction(Shape):
    name: str
    arguments: str
    """JSON, as the model wrote it."""


class ToolCall(Shape):
    id: str
    type: str
    function: CalledFunction


class AssistantMessage(Shape):
    role: str
    content: str | None
    refusal: None
    reasoning: str | None
    reasoning_content: str | None
    tool_calls: list[ToolCall] | None = None


class ChatChoice(Shape):
    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: int | str | None
    token_ids: list[int] | None


class ChatCompletion(Shape):
    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: str
    service_tier: None
    prompt_logprobs: PromptLogprobs | None
    prompt_token_ids: list[int] | None


class FunctionDelta(Shape):
    name: str | None = None
    arguments: str = ""


class ToolCallDelta(Shape):
    """id, type and name come once, with the first of a call."""

    index: int
    function: FunctionDelta
    id: str | None = None
    type: str | None = None


class ChatDelta(Shape):
    role: str | None = None
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(Shape):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    token_ids: list[int] | None = None


class ChatCompletionChunk(Shape):
    """The data of each server-sent event but the last, which is [DONE]."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None = None
    prompt_token_ids: list[int] | None = None


class TextLogprobs(Shape):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(Shape):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str
    stop_reason: int | str | None
    prompt_logprobs: PromptLogprobs | None
    prompt_token_ids: list[int] | None
    token_ids: list[int] | None


class Completion(Shape):
    id: str
    object: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    system_fingerprint: str


class TextChunkChoice(Shape):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None
    stop_reason: int | str | None = None
    prompt_token_ids: list[int] | None = None
    token_ids: list[int] | None = None


class CompletionChunk(Shape):
    """The data of each server-sent event but the last, which is [DONE]."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[TextChunkChoice]
    usage: Usage | None = None


class Model(Shape):
    id: str
    object: str
    created: int
    owned_by: str
    root: str
    parent: str | None
    max_model_len: int


class ModelList(Shape):
    object: str
    data: list[Model]


class Tokens(Shape):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None
    """As the vocabulary writes them; null unless asked for."""


class DetokenizedText(Shape):
    prompt: str


class Empty(Shape):
    """An empty object."""


class Ready(Shape):
    status: str


class NotReadyService(Shape):
    name: str
    state: str
    detail: str


class NotReady(Shape):
    status: str
    waiting_for: str
    progress: float
    error: ErrorDetail
    service: NotReadyService | None = None


class Version(Shape):
    version: str


class Status(msgspec.Struct, kw_only=True):
    """Everything known of every process; grows with the server, so readers must ignore what they do not know."""

    version: str
    state: str
    waiting_for: str
    uptime_seconds: float
    model: Model | None
    limits: dict[str, Any]
    in_flight: int
    door: dict[str, Any]
    connections: dict[str, int]
    engines: list[dict[str, Any]]
    launcher_pid: int | None
    services: list[dict[str, Any]]
    outages: dict[str, str]
    last_errors: list[dict[str, Any]]
