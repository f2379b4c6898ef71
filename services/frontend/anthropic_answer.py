"""How an Anthropic message is written: as a stream of typed events, or whole; and its errors.

A fold of the choice's events, like parsed_chat.py. Knows deltas and events, no connection and no body.
"""

from __future__ import annotations

from typing import Any

import msgspec

from quire.shared.errors import ApiError
from quire.shared.messages import Accepted, ReasoningIds

from .answers import COMMENT, Asked, Tally, encode
from .choice_output import ChoiceOutput, Parsing
from .mailbox import Delta
from .output_events import End, Event, Reasoning, Text, ToolArgs, ToolStart

_ERROR_TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error", 404: "not_found_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error",
}  # fmt: skip
_NO_PARSING = Parsing("", "", ReasoningIds(), {})


def anthropic_error(error: ApiError, request_id: str) -> bytes:
    """The envelope that Anthropic's clients read."""
    kind = _ERROR_TYPES.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    detail = {"type": kind, "message": error.message}
    return encode({"type": "error", "error": detail, "request_id": request_id})


def _event(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode({"type": kind, **fields}))


class AnthropicAnswer:
    """Writes one message."""

    done = b""

    def __init__(self, asked: Asked, accepted: list[Accepted], tally: Tally) -> None:
        self._asked = asked
        self._tally = tally
        self._output = ChoiceOutput(asked.parsing or _NO_PARSING, accepted[0].starts_in_reasoning)
        self._has_begun = False
        self._kind = ""
        """Of the open content block; empty between blocks."""
        self._index = -1
        """Of the last content block."""

    # --- streamed

    @property
    def keep_alive(self) -> bytes:
        """Anthropic's own event, once the message has begun: clients take no event before."""
        return _event("ping") if self._has_begun else COMMENT

    def opening(self) -> bytes:
        return b""

    def chunks(self, delta: Delta) -> bytes:
        written = b""
        if not self._has_begun:  # here and not in `opening`: by now the tally knows the cached tokens
            self._has_begun = True
            usage = {**self._usage(), "output_tokens": 0}
            written = _event("message_start", message=self._message([], None, None, usage))
        for event in self._output.events(delta):
            written += self._written(event, delta)
        return written

    def _written(self, event: Event, delta: Delta) -> bytes:
        if isinstance(event, Text):
            opened = self._open("text", {"type": "text", "text": ""})
            return opened + self._delta({"type": "text_delta", "text": event.text})
        if isinstance(event, Reasoning):
            opened = self._open("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            return opened + self._delta({"type": "thinking_delta", "thinking": event.text})
        if isinstance(event, ToolStart):
            block = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
            return self._close() + self._open("tool_use", block)
        if isinstance(event, ToolArgs):
            return self._delta({"type": "input_json_delta", "partial_json": event.text})
        if isinstance(event, End):
            reason, sequence = _stop_of(event, delta)
            ended = {"stop_reason": reason, "stop_sequence": sequence}
            return self._close() + _event("message_delta", delta=ended, usage=self._usage()) + _event("message_stop")
        return self._close()

    def _open(self, kind: str, block: dict[str, Any]) -> bytes:
        if self._kind == kind:
            return b""
        closed = self._close()
        self._kind = kind
        self._index += 1
        return closed + _event("content_block_start", index=self._index, content_block=block)

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        self._kind = ""
        return _event("content_block_stop", index=self._index)

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)

    def closing(self) -> bytes:
        return b""

    def failed(self, error: ApiError) -> bytes:
        return b"event: error\ndata: %b\n\n" % anthropic_error(error, self._asked.id)

    # --- whole

    def whole(self, choices: list[Delta]) -> bytes:
        (delta,) = choices
        blocks: list[dict[str, Any]] = []
        arguments: list[str] = []
        reason, sequence = "end_turn", None
        for event in self._output.events(delta):
            if isinstance(event, Text):
                _block(blocks, "text", {"text": ""})["text"] += event.text
            elif isinstance(event, Reasoning):
                _block(blocks, "thinking", {"thinking": "", "signature": ""})["thinking"] += event.text
            elif isinstance(event, ToolStart):
                blocks.append({"type": "tool_use", "id": event.id, "name": event.name, "input": {}})
                arguments = []
            elif isinstance(event, ToolArgs):
                arguments.append(event.text)
                blocks[-1]["input"] = arguments
            elif isinstance(event, End):
                reason, sequence = _stop_of(event, delta)
        for block in blocks:
            if block["type"] == "tool_use":
                block["input"] = _input_of("".join(block["input"]))
        return encode(self._message(blocks, reason, sequence, self._usage()))

    def _message(
        self, content: list[dict[str, Any]], reason: str | None, sequence: str | None, usage: dict[str, int]
    ) -> dict[str, Any]:
        return {
            "id": self._asked.id,
            "type": "message",
            "role": "assistant",
            "model": self._asked.model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": sequence,
            "usage": usage,
        }

    def _usage(self) -> dict[str, int]:
        """As Anthropic counts: what was read from a cache is no input."""
        tally = self._tally
        return {
            "input_tokens": max(0, tally.prompt_tokens - tally.cached_tokens),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": tally.cached_tokens,
            "output_tokens": tally.output_tokens,
        }


def _block(blocks: list[dict[str, Any]], kind: str, empty: dict[str, Any]) -> dict[str, Any]:
    """The last block if it is of this kind, else a new one."""
    if not blocks or blocks[-1]["type"] != kind:
        blocks.append({"type": kind, **empty})
    return blocks[-1]


def _stop_of(event: End, delta: Delta) -> tuple[str, str | None]:
    if event.reason == "length":
        return "max_tokens", None
    if event.reason == "tool_calls":
        return "tool_use", None
    if isinstance(delta.stop_reason, str):
        return "stop_sequence", delta.stop_reason
    return "end_turn", None


def _input_of(arguments: str) -> dict[str, Any]:
    """A call's arguments as the object they have to be; what is no JSON object is shown as it was written."""
    try:
        return msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {"INVALID_JSON": arguments}
