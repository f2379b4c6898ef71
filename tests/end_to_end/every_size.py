"""Requests that make a server do once all that it keeps something of for good: its warm-up before memory is watched.

Steps of every size (torch's float32 products keep code for each number of rows they have met), every block of the KV
cache written, and what a first schema, regex, tool or template brings up. Used by soak.py.
"""

from __future__ import annotations

import json
import random
from typing import Any

from quire.kernels.cpu.linear import padded_rows
from tests.end_to_end.faulty_load import CHAT

COMPLETIONS = "/v1/completions"
_MAX_BATCHED_TOKENS, _MAX_NUM_SEQS = 1024, 64
"""The server's defaults."""
_HELLO = [{"role": "user", "content": "Tell me about somebody"}]
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {}}}}}

Asked = tuple[str, bytes]
"""Path and body."""


def constrained(number: int) -> Asked:
    """One of eight requests whose answer has to follow what the client wrote, for the helper and the grammars."""
    schema = {"type": "object", "properties": {f"key{number % 3}": {"enum": ["a", "b"]}}, "additionalProperties": False}
    fields: list[dict[str, Any]] = [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}}},
        {"structured_outputs": {"regex": f"[a-z]{{{1 + number % 3}}}"}},
        {"response_format": {"type": "json_object"}},
        {"tools": [_TOOL], "tool_choice": "required"},
    ]
    return CHAT, _body(messages=_HELLO, max_tokens=24, seed=number, **fields[number % len(fields)])


def steps_of_every_size(seed: int) -> list[Asked]:
    """To be sent one after the other on an idle server: a prompt of each size, then as many rows of one token."""
    random_ = random.Random(seed)
    asked = []
    for size in sorted({padded_rows(count) for count in range(1, _MAX_BATCHED_TOKENS + 1)}):
        prompt = [random_.randrange(3, 2000) for _ in range(size)]
        asked.append((COMPLETIONS, _body(prompt=prompt, max_tokens=1)))
    for rows in sorted({padded_rows(count) for count in range(1, _MAX_NUM_SEQS + 1)}):
        asked.append((COMPLETIONS, _body(prompt=[5, 6, 7], max_tokens=3, n=min(rows, _MAX_NUM_SEQS), temperature=1)))
        asked.append((COMPLETIONS, _body(prompt=[5, 6, 7], max_tokens=3, n=rows, temperature=0.9, logprobs=2, seed=1)))
    return asked


def _body(**fields: Any) -> bytes:
    return json.dumps({"ignore_eos": "messages" not in fields, **fields}).encode()
