"""How a chat completion is written: as chunks of a stream, or whole.

The bytes before and after the text of a chunk are made once per choice; per delta only the text is
escaped. Knows what was asked (answers.Asked) and deltas, no connection and no request body.
"""

from __future__ import annotations

from typing import Any

import msgspec

from quire.shared.messages import Accepted, LogprobEntry

from .answers import (
    Asked,
    OpenAiEvents,
    Tally,
    encode,
    ids_of,
    logprob_of,
    prompt_logprobs_json,
    start_of_chunk,
    token_text,
)
from .mailbox import Delta


class ChatAnswer(OpenAiEvents):
    """Writes one chat completion."""

    def __init__(self, asked: Asked, accepted: list[Accepted], tally: Tally) -> None:
        self._asked = asked
        self._tally = tally
        self._prompt_ids = accepted[0].prompt_ids
        start = start_of_chunk(asked, "chat.completion.chunk")
        self._start = start
        self._heads = [b'%b{"index":%d,"delta":' % (start, index) for index in range(asked.num_choices)]
        self._text_heads = [head + b'{"content":' for head in self._heads]
        usage = b',"usage":null' if asked.has_usage else b""
        self._end = b"]%b}\n\n" % usage
        self._text_tail = b'},"logprobs":null,"finish_reason":null}' + self._end
        self._is_bare = asked.logprobs is None and not asked.returns_token_ids and not asked.has_continuous_usage

    def opening(self) -> bytes:
        """The role of each choice, in order."""
        tail = b'{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}'
        chunks = [head + tail + self._ending() for head in self._heads]
        if self._asked.returns_token_ids:
            ids = encode(ids_of(self._prompt_ids))
            chunks[0] = chunks[0].removesuffix(b"}\n\n") + b',"prompt_token_ids":%b}\n\n' % ids
        if self._asked.echoed_text:
            tail = b'%b},"logprobs":null,"finish_reason":null}' % encode(self._asked.echoed_text)
            chunks += [head + tail + self._ending() for head in self._text_heads]
        return b"".join(chunks)

    def chunks(self, delta: Delta) -> bytes:
        if self._is_bare and delta.finish_reason is None:
            return self._text_heads[delta.index] + encode(delta.text) + self._text_tail if delta.text else b""
        chunks = b""
        has_tokens = delta.count > 0 and (self._asked.logprobs is not None or self._asked.returns_token_ids)
        if delta.text or has_tokens:
            logprobs = encode(self._logprobs(delta))
            ids = b',"token_ids":%b' % encode(ids_of(delta.token_ids)) if self._asked.returns_token_ids else b""
            chunks = b'%b%b},"logprobs":%b,"finish_reason":null%b}%b' % (
                self._text_heads[delta.index], encode(delta.text), logprobs, ids, self._ending()
            )  # fmt: skip
        if delta.finish_reason is not None:
            chunks += b'%b{},"logprobs":null,"finish_reason":%b,"stop_reason":%b}%b' % (
                self._heads[delta.index], encode(delta.finish_reason), encode(delta.stop_reason), self._ending()
            )  # fmt: skip
        return chunks

    def closing(self) -> bytes:
        if not self._asked.has_usage:
            return b""
        return b'%b],"usage":%b}\n\n' % (self._start, self._tally.usage())

    def whole(self, choices: list[Delta]) -> bytes:
        asked = self._asked
        scores = choices[0] if asked.has_prompt_logprobs else Delta(0)
        answer: dict[str, Any] = {
            "id": asked.id,
            "object": "chat.completion",
            "created": asked.created,
            "model": asked.model,
            "choices": [self._choice(choice) for choice in choices],
            "usage": msgspec.Raw(self._tally.usage()),
            "system_fingerprint": asked.fingerprint,
            "service_tier": None,
            "prompt_logprobs": prompt_logprobs_json(scores.prompt_tokens, scores.prompt_top),
            "prompt_token_ids": ids_of(self._prompt_ids) if asked.returns_token_ids else None,
        }
        return encode(answer)

    def _choice(self, delta: Delta) -> dict[str, Any]:
        text = self._asked.echoed_text + delta.text
        message = {"role": "assistant", "content": text, "refusal": None}
        return {
            "index": delta.index,
            "message": {**message, "reasoning": None, "reasoning_content": None},
            "logprobs": self._logprobs(delta),
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
            "token_ids": ids_of(delta.token_ids) if self._asked.returns_token_ids else None,
        }

    def _ending(self) -> bytes:
        """What closes a chunk, with usage so far if that was asked for."""
        return b'],"usage":%b}\n\n' % self._tally.usage() if self._asked.has_continuous_usage else self._end

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        num_top = self._asked.logprobs
        if num_top is None:
            return None
        tops = delta.top or []
        content = []
        for position, token in enumerate(delta.tokens or []):
            entry = self._entry(token)
            top = tops[position][:num_top] if position < len(tops) else []
            entry["top_logprobs"] = [self._entry(one) for one in top]
            content.append(entry)
        return {"content": content, "refusal": None}

    def _entry(self, entry: LogprobEntry) -> dict[str, Any]:
        text = token_text(entry, self._asked.writes_token_ids)
        return {"token": text, "logprob": logprob_of(entry), "bytes": list(entry.token)}
