"""The shapes of Anthropic's answers, for the OpenAPI document: what anthropic_answer.py writes."""

from __future__ import annotations

from typing import Any

from .answer_shapes import Shape


class AnthropicErrorDetail(Shape):
    type: str
    message: str


class AnthropicError(Shape):
    """Every error of these paths, whatever its status."""

    type: str
    error: AnthropicErrorDetail
    request_id: str


class AnthropicUsage(Shape):
    input_tokens: int
    """Without those that were read from the prefix cache."""
    cache_creation_input_tokens: int
    cache_read_input_tokens: int
    output_tokens: int


class AnthropicBlock(Shape):
    """One of: text, thinking, tool_use."""

    type: str
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    id: str | None = None
    name: str | None = None
    input: dict[str, Any] | None = None


class AnthropicAnswerMessage(Shape):
    id: str
    type: str
    role: str
    model: str
    content: list[AnthropicBlock]
    stop_reason: str | None
    """end_turn | max_tokens | stop_sequence | tool_use."""
    stop_sequence: str | None
    usage: AnthropicUsage


class AnthropicEvent(Shape):
    """The data of each server-sent event; its `event:` line is its type. There is no [DONE]."""

    type: str
    """ping | message_start | content_block_start | content_block_delta | content_block_stop | message_delta |
    message_stop."""
    message: AnthropicAnswerMessage | None = None
    index: int | None = None
    content_block: AnthropicBlock | None = None
    delta: dict[str, Any] | None = None
    usage: AnthropicUsage | None = None


class CountedTokens(Shape):
    input_tokens: int
