"""How a chat completion with reasoning or tool calls is written: a fold of its choices' events.

Like chat.py, whose chunks and choices it fills with more than text. Knows deltas and events, no
connection and no request body.
"""

from __future__ import annotations

from typing import Any

import msgspec

from quire.shared.messages import Accepted

from .answers import Asked, Tally, encode, ids_of
from .chat import ChatAnswer
from .choice_output import ChoiceOutput, Parsing
from .mailbox import Delta
from .output_events import End, Event, Reasoning, Text, ToolArgs, ToolStart


class ParsedChatAnswer(ChatAnswer):
    """Writes one chat completion whose text is parsed."""

    def __init__(self, asked: Asked, accepted: list[Accepted], tally: Tally, parsing: Parsing) -> None:
        super().__init__(asked, accepted, tally)
        starts_inside = accepted[0].starts_in_reasoning
        self._outputs = [ChoiceOutput(parsing, starts_inside) for _ in range(asked.num_choices)]

    def chunks(self, delta: Delta) -> bytes:
        asked = self._asked
        events = self._events(delta)
        deltas = [found for event in events if (found := _delta_of(event)) is not None]
        has_tokens = delta.count > 0 and (asked.logprobs is not None or asked.returns_token_ids)
        if has_tokens and not deltas:
            deltas = [{}]
        head, written = self._heads[delta.index], b""
        for position, found in enumerate(deltas):
            logprobs, ids = b"null", b""
            if has_tokens and not position:
                logprobs = encode(self._logprobs(delta))
                ids = b',"token_ids":%b' % encode(ids_of(delta.token_ids)) if asked.returns_token_ids else b""
            written += b'%b%b,"logprobs":%b,"finish_reason":null%b}%b' % (
                head, encode(found), logprobs, ids, self._ending()
            )  # fmt: skip
        if events and isinstance(end := events[-1], End):
            written += b'%b{},"logprobs":null,"finish_reason":%b,"stop_reason":%b}%b' % (
                head, encode(end.reason), encode(delta.stop_reason), self._ending()
            )  # fmt: skip
        return written

    def whole(self, choices: list[Delta]) -> bytes:
        self._messages = [_message_of(self._events(choice)) for choice in choices]
        return super().whole(choices)

    def _choice(self, delta: Delta) -> dict[str, Any]:
        message, reason = self._messages[delta.index]
        if self._asked.echoed_text:
            message["content"] = self._asked.echoed_text + (message["content"] or "")
        return {**super()._choice(delta), "message": message, "finish_reason": reason}

    def _events(self, delta: Delta) -> list[Event]:
        output = self._outputs[delta.index]
        events = output.events(delta)
        if delta.finish_reason is not None:
            self._tally.reasoning_tokens += output.reasoning_tokens
        return events


def _delta_of(event: Event) -> dict[str, Any] | None:
    if isinstance(event, Text):
        return {"content": event.text}
    if isinstance(event, Reasoning):
        return {"reasoning": event.text, "reasoning_content": event.text}
    if isinstance(event, ToolStart):
        function = {"name": event.name, "arguments": ""}
        return {"tool_calls": [{"index": event.index, "id": event.id, "type": "function", "function": function}]}
    if isinstance(event, ToolArgs):
        return {"tool_calls": [{"index": event.index, "function": {"arguments": event.text}}]}
    return None


class _Call(msgspec.Struct):
    id: str
    name: str
    arguments: list[str] = []


def _message_of(events: list[Event]) -> tuple[dict[str, Any], str]:
    """The message that a choice's events make, and its finish reason."""
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[_Call] = []
    reason = "stop"
    for event in events:
        if isinstance(event, Text):
            texts.append(event.text)
        elif isinstance(event, Reasoning):
            thoughts.append(event.text)
        elif isinstance(event, ToolStart):
            calls.append(_Call(event.id, event.name))
        elif isinstance(event, ToolArgs):
            calls[event.index].arguments.append(event.text)
        elif isinstance(event, End):
            reason = event.reason
    reasoning = "".join(thoughts) or None
    content = "".join(texts) or (None if calls or reasoning else "")
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    message |= {"reasoning": reasoning, "reasoning_content": reasoning}
    if calls:
        message["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": "".join(call.arguments)}}
            for call in calls
        ]
    return message, reason
