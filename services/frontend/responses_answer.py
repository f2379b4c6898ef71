"""How a response is written: as a stream of numbered events, or whole.

A fold of the choice's events; the whole response is what the stream's last event shows, so both are
one. Knows deltas and events, no connection, no store and no body.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from quire.shared.errors import ApiError
from quire.shared.messages import Accepted, ReasoningIds

from .answers import COMMENT, Asked, Tally, encode
from .choice_output import ChoiceOutput, Parsing
from .mailbox import Delta
from .output_events import End, Event, Reasoning, Text, ToolArgs, ToolEnd, ToolStart
from .response_logprobs import TextLogprobs, in_event

_NO_PARSING = Parsing("", "", ReasoningIds(), {})
_PARTS = {"message": "output_text", "reasoning": "reasoning_text"}
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class ResponseAnswer:
    """Writes one response. `base`: what is shown of the request; `on_change`: told of each state to be stored."""

    done = b""
    keep_alive = COMMENT

    def __init__(
        self,
        asked: Asked,
        accepted: list[Accepted],
        tally: Tally,
        base: dict[str, Any],
        on_change: Callable[[dict[str, Any]], None],
    ) -> None:
        self._tally = tally
        self._output = ChoiceOutput(asked.parsing or _NO_PARSING, accepted[0].starts_in_reasoning)
        end_ids = asked.parsing.reasoning_ids.ends if asked.parsing is not None else []
        self._logprobs = TextLogprobs(asked.logprobs, end_ids)
        self._has_reasoned = accepted[0].starts_in_reasoning
        self._on_change = on_change
        self._items: list[dict[str, Any]] = []
        self._pieces: list[str] = []
        """Of the open item's text or arguments."""
        self._is_open = False
        self._number = -1
        self.is_cancelled = False
        self.response: dict[str, Any] = {
            "id": asked.id,
            "object": "response",
            "created_at": asked.created,
            "completed_at": None,
            "model": asked.model,
            "status": "in_progress",
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": None,
            **base,
        }
        on_change(self.response)

    # --- streamed

    def opening(self) -> bytes:
        return self._event("response.created", response=self.response) + self._event(
            "response.in_progress", response=self.response
        )

    def chunks(self, delta: Delta) -> bytes:
        return b"".join([self._written(event) for event in self._events(delta)])

    def closing(self) -> bytes:
        return b""

    def failed(self, error: ApiError) -> bytes:
        """How the stream ends when the answer does not: with what there is of it."""
        status = "cancelled" if self.is_cancelled else "failed"
        closed = self._close("incomplete")
        self.response |= {"status": status, "output": self._items, "usage": self._usage()}
        if self.is_cancelled:
            self._on_change(self.response)
            return closed + self._event("response.incomplete", response=self.response)
        self.response["error"] = {"code": "server_error", "message": error.message}
        self._on_change(self.response)
        told = self._event("error", code=error.code, message=error.message, param=error.param)
        return closed + told + self._event("response.failed", response=self.response)

    def whole(self, choices: list[Delta]) -> bytes:
        for event in self._events(choices[0]):
            self._written(event)
        return encode(self.response)

    # --- what both are made of

    def _events(self, delta: Delta) -> list[Event]:
        self._logprobs.feed(delta)
        events = self._output.events(delta)
        if delta.finish_reason is not None:
            self._tally.reasoning_tokens += self._output.reasoning_tokens
        return events

    def _written(self, event: Event) -> bytes:
        if isinstance(event, Text):
            return self._open("message") + self._piece("response.output_text.delta", event.text, content_index=0)
        if isinstance(event, Reasoning):
            self._has_reasoned = True
            return self._open("reasoning") + self._piece("response.reasoning_text.delta", event.text, content_index=0)
        if isinstance(event, ToolStart):
            return self._close() + self._open("function_call", call_id=event.id, name=event.name)
        if isinstance(event, ToolArgs):
            return self._piece("response.function_call_arguments.delta", event.text)
        if isinstance(event, ToolEnd):
            return self._close()
        return self._end(event)

    def _open(self, kind: str, **fields: Any) -> bytes:
        """An item of this kind, a new one unless the open one is."""
        if self._is_open and self._items[-1]["type"] == kind:
            return b""
        closed = self._close()
        own_id = item_id(_PREFIXES[kind], self.response["id"], len(self._items))
        item: dict[str, Any] = {"id": own_id, "type": kind, **fields, "status": "in_progress"}
        if kind == "message":
            item |= {"role": "assistant", "content": []}
        elif kind == "reasoning":
            item |= {"summary": [], "content": []}
        else:
            item["arguments"] = ""
        self._items.append(item)
        self._is_open, self._pieces = True, []
        added = self._event("response.output_item.added", output_index=len(self._items) - 1, item=item)
        if kind in _PARTS:
            added += self._about("response.content_part.added", content_index=0, part=_part(kind, ""))
        return closed + added

    def _piece(self, kind: str, text: str, **fields: Any) -> bytes:
        self._pieces.append(text)
        if kind == "response.output_text.delta":
            fields["logprobs"] = in_event(self._logprobs.take(self._has_reasoned))
        return self._about(kind, delta=text, **fields)

    def _close(self, status: str = "completed") -> bytes:
        if not self._is_open:
            return b""
        self._is_open = False
        item, text = self._items[-1], "".join(self._pieces)
        kind = item["type"]
        item["status"] = status
        if kind == "function_call":
            item["arguments"] = text
            written = self._about("response.function_call_arguments.done", arguments=text, name=item["name"])
        else:
            part = _part(kind, text)
            item["content"] = [part]
            extra: dict[str, Any] = {}
            if kind == "message":
                self._logprobs.take(self._has_reasoned)
                part["logprobs"] = self._logprobs.all
                extra["logprobs"] = in_event(self._logprobs.all)
            written = self._about(f"response.{_PARTS[kind]}.done", content_index=0, text=text, **extra)
            written += self._about("response.content_part.done", content_index=0, part=part)
        return written + self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    def _end(self, event: End) -> bytes:
        is_cut = event.reason == "length"
        closed = self._close("incomplete" if is_cut else "completed")
        if is_cut:
            if self._items:
                self._items[-1]["status"] = "incomplete"
            self.response["incomplete_details"] = {"reason": "max_output_tokens"}
        else:
            self.response["completed_at"] = int(time.time())
        self.response |= {"output": self._items, "usage": self._usage()}
        self.response["status"] = "incomplete" if is_cut else "completed"
        self._on_change(self.response)
        return closed + self._event(f"response.{self.response['status']}", response=self.response)

    def _usage(self) -> dict[str, Any]:
        tally = self._tally
        return {
            "input_tokens": tally.prompt_tokens,
            "input_tokens_details": {"cached_tokens": tally.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": tally.output_tokens,
            "output_tokens_details": {"reasoning_tokens": tally.reasoning_tokens},
            "total_tokens": tally.prompt_tokens + tally.output_tokens,
        }

    def _about(self, kind: str, **fields: Any) -> bytes:
        """An event about the open or the last item."""
        return self._event(kind, item_id=self._items[-1]["id"], output_index=len(self._items) - 1, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        data = {"type": kind, "sequence_number": self._number, **fields}
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), encode(data))


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def item_id(prefix: str, response_id: str, index: int) -> str:
    """Names its response, so that the item is found by its id alone."""
    return f"{prefix}_{response_id.removeprefix('resp_')}{index:08x}"


def response_of_item(given_id: str) -> str:
    """The response that an item's id names; empty if it is none of ours."""
    digits = given_id.rpartition("_")[2]
    return f"resp_{digits[:16]}" if len(digits) == 24 else ""


def messages_of_output(output: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The assistant's message that an answer's items are, for the conversation that goes on from it."""
    message: dict[str, Any] = {"role": "assistant", "content": ""}
    for item in output:
        if item["type"] == "message":
            message["content"] += "".join(part["text"] for part in item["content"])
        elif item["type"] == "reasoning":
            thought = "".join(part["text"] for part in item["content"])
            message["reasoning_content"] = message.get("reasoning_content", "") + thought
        else:
            function = {"name": item["name"], "arguments": item["arguments"]}
            call = {"id": item["call_id"], "type": "function", "function": function}
            message.setdefault("tool_calls", []).append(call)
    return [message] if output else []
