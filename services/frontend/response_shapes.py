"""The shapes of responses, for the OpenAPI document: what responses_answer.py and responses.py write."""

from __future__ import annotations

from typing import Any

from .answer_shapes import Shape


class InputTokensDetails(Shape):
    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(Shape):
    reasoning_tokens: int


class ResponseUsage(Shape):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseContent(Shape):
    """output_text or reasoning_text."""

    type: str
    text: str
    annotations: list[Any] | None = None
    logprobs: list[Any] | None = None


class ResponseOutput(Shape):
    """A message, reasoning, or function_call."""

    id: str
    type: str
    status: str
    role: str | None = None
    content: list[ResponseContent] | None = None
    summary: list[Any] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class ResponseErrorDetail(Shape):
    code: str
    message: str


class IncompleteDetails(Shape):
    reason: str


class Response(Shape):
    id: str
    object: str
    created_at: int
    completed_at: int | None
    model: str
    status: str
    """in_progress | completed | incomplete | failed | cancelled."""
    error: ResponseErrorDetail | None
    incomplete_details: IncompleteDetails | None
    output: list[ResponseOutput]
    usage: ResponseUsage | None
    background: bool
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, str | None]
    service_tier: str | None
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: str
    user: str | None


class ResponseEvent(Shape):
    """The data of each server-sent event; its `event:` line is its type."""

    type: str
    sequence_number: int
    response: Response | None = None
    output_index: int | None = None
    content_index: int | None = None
    item_id: str | None = None
    item: ResponseOutput | None = None
    part: ResponseContent | None = None
    delta: str | None = None
    text: str | None = None
    name: str | None = None
    arguments: str | None = None
    logprobs: list[Any] | None = None
    code: str | None = None
    message: str | None = None
    param: str | None = None


class DeletedResponse(Shape):
    id: str
    object: str
    deleted: bool


class InputItems(Shape):
    object: str
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
