"""How a text completion is written: as chunks of a stream, or whole.

Like chat.py, and with what only completions have: several prompts in one answer, their echo, and
the older shape of logprobs. Knows what was asked (answers.Asked) and deltas, no connection.
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


class CompletionAnswer(OpenAiEvents):
    """Writes one text completion of one or more prompts."""

    def __init__(self, asked: Asked, accepted: list[Accepted], tally: Tally) -> None:
        self._asked = asked
        self._accepted = accepted
        self._tally = tally
        start = start_of_chunk(asked, "text_completion")
        self._start = start
        self._heads = [b'%b{"index":%d,"text":' % (start, index) for index in range(asked.num_choices)]
        self._end = b"]%b}\n\n" % (b',"usage":null' if asked.has_usage else b"")
        self._text_tail = b',"logprobs":null,"finish_reason":null}' + self._end
        self._is_bare = asked.logprobs is None and not asked.returns_token_ids and not asked.has_continuous_usage
        self._needs_opening = asked.is_echoed or asked.returns_token_ids
        self._needs_scores = asked.is_echoed and asked.logprobs is not None
        self._opened = [not self._needs_opening] * asked.num_choices
        self._held: dict[int, list[Delta]] = {}
        """Deltas of choices whose opening waits for the logprobs of their prompt."""
        self._scores: list[Delta | None] = [None] * asked.num_prompts
        """The delta that brought the logprobs of each prompt."""
        self._offsets = [0] * asked.num_choices
        """Characters before the next token of a choice."""

    def opening(self) -> bytes:
        return b""

    def chunks(self, delta: Delta) -> bytes:
        index = delta.index
        if self._opened[index]:
            return self._text_chunks(delta)
        prompt = index // self._asked.n
        is_first = index % self._asked.n == 0
        if is_first and (delta.prompt_tokens is not None or delta.finish_reason is not None):
            self._scores[prompt] = delta
        if self._needs_scores and self._scores[prompt] is None:
            self._held.setdefault(index, []).append(delta)
            return b""
        written = self._open(index) + self._text_chunks(delta)
        if is_first and self._needs_scores:
            for other in range(index + 1, index + self._asked.n):
                held = self._held.pop(other, [])
                if held:
                    written += self._open(other) + b"".join([self._text_chunks(one) for one in held])
        return written

    def _open(self, index: int) -> bytes:
        """A choice's first chunk: the echoed prompt, and what was asked for about it."""
        self._opened[index] = True
        held = self._held.pop(index, [])
        prompt = index // self._asked.n
        text = self._accepted[prompt].prompt_text if self._asked.is_echoed else ""
        scores = self._scores[prompt]
        logprobs = self._prompt_logprobs(scores, prompt, index) if self._needs_scores and scores is not None else None
        ids = b""
        if self._asked.returns_token_ids:
            ids = b',"prompt_token_ids":%b' % encode(ids_of(self._accepted[prompt].prompt_ids))
        chunk = b'%b%b,"logprobs":%b,"finish_reason":null%b}%b' % (
            self._heads[index], encode(text), encode(logprobs), ids, self._ending()
        )  # fmt: skip
        return chunk + b"".join([self._text_chunks(one) for one in held])

    def _text_chunks(self, delta: Delta) -> bytes:
        if self._is_bare and delta.finish_reason is None:
            return self._heads[delta.index] + encode(delta.text) + self._text_tail if delta.text else b""
        chunks = b""
        has_tokens = delta.count > 0 and (self._asked.logprobs is not None or self._asked.returns_token_ids)
        if delta.text or has_tokens:
            logprobs = encode(self._logprobs(delta.tokens, delta.top, delta.index))
            ids = b',"token_ids":%b' % encode(ids_of(delta.token_ids)) if self._asked.returns_token_ids else b""
            chunks = b'%b%b,"logprobs":%b,"finish_reason":null%b}%b' % (
                self._heads[delta.index], encode(delta.text), logprobs, ids, self._ending()
            )  # fmt: skip
        if delta.finish_reason is not None:
            chunks += b'%b"","logprobs":null,"finish_reason":%b,"stop_reason":%b}%b' % (
                self._heads[delta.index], encode(delta.finish_reason), encode(delta.stop_reason), self._ending()
            )  # fmt: skip
        return chunks

    def closing(self) -> bytes:
        if not self._asked.has_usage:
            return b""
        return b'%b],"usage":%b}\n\n' % (self._start, self._tally.usage())

    def whole(self, choices: list[Delta]) -> bytes:
        asked = self._asked
        answer: dict[str, Any] = {
            "id": asked.id,
            "object": "text_completion",
            "created": asked.created,
            "model": asked.model,
            "choices": [self._choice(choice, choices[choice.index - choice.index % asked.n]) for choice in choices],
            "usage": msgspec.Raw(self._tally.usage()),
            "system_fingerprint": asked.fingerprint,
        }
        return encode(answer)

    def _choice(self, delta: Delta, first: Delta) -> dict[str, Any]:
        """`first`: choice 0 of the same prompt, which has the prompt's logprobs."""
        asked = self._asked
        prompt = delta.index // asked.n
        accepted = self._accepted[prompt]
        logprobs = self._prompt_logprobs(first, prompt, delta.index) if self._needs_scores else None
        if logprobs is None and asked.is_echoed:
            self._offsets[delta.index] = len(accepted.prompt_text)
        own = self._logprobs(delta.tokens, delta.top, delta.index)
        if logprobs is not None and own is not None:
            logprobs = {key: logprobs[key] + own[key] for key in logprobs}
        scores = first if asked.has_prompt_logprobs else Delta(0)
        return {
            "index": delta.index,
            "text": (accepted.prompt_text if asked.is_echoed else "") + delta.text,
            "logprobs": logprobs if logprobs is not None else own,
            "finish_reason": delta.finish_reason,
            "stop_reason": delta.stop_reason,
            "prompt_logprobs": prompt_logprobs_json(scores.prompt_tokens, scores.prompt_top),
            "prompt_token_ids": ids_of(accepted.prompt_ids) if asked.returns_token_ids else None,
            "token_ids": ids_of(delta.token_ids) if asked.returns_token_ids else None,
        }

    def _ending(self) -> bytes:
        """What closes a chunk, with usage so far if that was asked for."""
        return b'],"usage":%b}\n\n' % self._tally.usage() if self._asked.has_continuous_usage else self._end

    def _prompt_logprobs(self, scores: Delta, prompt: int, index: int) -> dict[str, Any] | None:
        """Of an echoed prompt: its first token has none, but a text, which is what the others leave over."""
        if scores.prompt_tokens is None:
            return None
        text = self._accepted[prompt].prompt_text.encode()
        rest = b"".join([entry.token for entry in scores.prompt_tokens])
        first = text[: len(text) - len(rest)] if rest and text.endswith(rest) else text if not rest else b""
        ids = ids_of(self._accepted[prompt].prompt_ids[:4])
        name = f"token_id:{ids[0]}" if self._asked.writes_token_ids and ids else first.decode("utf-8", "replace")
        start = {"tokens": [name], "token_logprobs": [None], "top_logprobs": [None], "text_offset": [0]}
        self._offsets[index] = _characters(first)
        others = self._logprobs(scores.prompt_tokens, scores.prompt_top, index)
        return {key: start[key] + others[key] for key in start} if others is not None else start

    def _logprobs(
        self, tokens: list[LogprobEntry] | None, tops: list[list[LogprobEntry]] | None, index: int
    ) -> dict[str, Any] | None:
        num_top = self._asked.logprobs
        if num_top is None:
            return None
        texts, offsets, logprobs, top_logprobs = [], [], [], []
        for position, token in enumerate(tokens or []):
            texts.append(self._text(token))
            logprobs.append(logprob_of(token))
            top = tops[position][:num_top] if tops and position < len(tops) else []
            entries = {self._text(entry): logprob_of(entry) for entry in [*top, token]}
            top_logprobs.append(entries)
            offsets.append(self._offsets[index])
            self._offsets[index] += _characters(token.token)
        return {"tokens": texts, "token_logprobs": logprobs, "top_logprobs": top_logprobs, "text_offset": offsets}

    def _text(self, entry: LogprobEntry) -> str:
        """A token as text; part of a character as its bytes, so that two such parts stay two keys."""
        if not self._asked.writes_token_ids:
            try:
                return entry.token.decode()
            except UnicodeDecodeError:
                return "bytes:" + "".join(f"\\x{byte:02x}" for byte in entry.token)
        return token_text(entry, writes_token_ids=True)


def _characters(token: bytes) -> int:
    """Characters that begin in it."""
    return sum((byte & 0xC0) != 0x80 for byte in token)
