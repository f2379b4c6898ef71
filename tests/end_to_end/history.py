"""The history checker: what clients were sent, judged request by request.

Each request ends exactly once, each of its choices too, nothing comes after an end, no answer carries another's
id, and what is deterministic is what it was without any fault. Used by the kill matrix, storms, soaks and restarts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from bench.response import DONE, Answer


class Content(Struct):
    """Of an answer all that a fault must not change, by choice."""

    texts: dict[int, str] = {}
    ends: dict[int, str] = {}
    usage: dict[str, int] = {}
    """But for what the prefix cache gave."""
    tokens: dict[int, list[str]] = {}
    """Those that logprobs were asked for."""


class Verdict(Struct):
    """What a set of answers showed."""

    num_same: int = 0
    num_broken: int = 0
    """Ended with an error, or not at all."""
    num_different: int = 0
    """Ended well, but with another text, end or usage, or against the rules: never right."""
    remarks: list[str] = []


def content(answer: Answer) -> Content:
    found = Content()
    for chunk in _chunks(answer):
        counts = chunk.get("usage") or {}
        found.usage = {key: value for key, value in counts.items() if isinstance(value, int)} or found.usage
        for choice in chunk.get("choices", ()):
            index = choice["index"]
            found.texts[index] = found.texts.get(index, "") + _text(choice)
            if choice.get("finish_reason"):
                found.ends[index] = choice["finish_reason"]
            scored = (choice.get("logprobs") or {}).get("content") or []
            found.tokens.setdefault(index, []).extend(entry["token"] for entry in scored)
    return found


def violations(answer: Answer, num_choices: int) -> list[str]:
    """What of an answer that claims to be whole is against the rules."""
    found: list[str] = []
    is_stream = bool(answer.frames)
    if is_stream and (answer.frames.count(DONE) != 1 or answer.frames[-1] != DONE):
        found.append("[DONE] is not its one last frame")
    ended: set[int] = set()
    ids: set[str] = set()
    for chunk in _chunks(answer):
        ids.add(chunk.get("id", ""))
        for choice in chunk.get("choices", ()):
            index = choice["index"]
            if index in ended:
                found.append(f"choice {index} went on after its end")
            if choice.get("finish_reason"):
                ended.add(index)
    if ended != set(range(num_choices)):
        found.append(f"of {num_choices} choices these have ended: {sorted(ended)}")
    if len(ids) != 1:
        found.append(f"its chunks carry the ids {sorted(ids)}")
    return found


def judge(bodies: Sequence[bytes], answers: Sequence[Answer], reference: Sequence[Content]) -> Verdict:
    """The answers to `bodies`, each against what it is without faults."""
    verdict = Verdict()
    seen: dict[str, int] = {}
    for number, (body, answer, expected) in enumerate(zip(bodies, answers, reference, strict=True)):
        if answer.error or not answer.is_done:
            verdict.num_broken += 1
            verdict.remarks.append(f"request {number}: {answer.status} {answer.error[:200] or 'no end'}")
            continue
        wrong = violations(answer, json.loads(body).get("n", 1))
        own = next((chunk.get("id", "") for chunk in _chunks(answer)), "")
        if seen.setdefault(own, number) != number:
            wrong.append(f"its id is that of request {seen[own]}")
        if (got := content(answer)) != expected:
            wrong.append(f"{got} is not {expected}")
        if wrong:
            verdict.num_different += 1
            verdict.remarks.append(f"request {number}: {'; '.join(wrong)}")
        else:
            verdict.num_same += 1
    return verdict


def _chunks(answer: Answer) -> list[dict[str, Any]]:
    """The frames of a stream, or the one body of a plain answer."""
    found = []
    for frame in answer.frames or [answer.last_frame]:
        with contextlib.suppress(ValueError):
            found.append(json.loads(frame))
    return found


def _text(choice: dict[str, Any]) -> str:
    if "text" in choice:
        return choice["text"] or ""
    return (choice.get("delta") or choice.get("message") or {}).get("content") or ""
