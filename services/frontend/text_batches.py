"""What a batch of text from a tokenizer means for the records under way: deltas into mailboxes, ends.

The way up of tokenizer_client.py, which is told of every choice that ended and of every attempt that was
lost. Knows no links.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

from quire.shared.errors import INTERNAL_ERROR
from quire.shared.messages import RESUMABLE, Finished, RequestId, TextBatch

from .mailbox import AnswerFailed, Delta
from .record import Record


class TextBatches:
    """Delivers batches to `records`, by the id of their present attempt."""

    def __init__(
        self,
        records: Mapping[RequestId, Record],
        on_end: Callable[[Record, int], None],
        on_lost: Callable[[Record, str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._records = records
        self._on_end = on_end
        self._on_lost = on_lost
        self._loop = loop
        self._has_had_turn = False

    def deliver_plain(self, batch: TextBatch) -> None:
        """The hot path: a step's rows of nothing but text."""
        records = self._records
        at_once = self._is_first_of_turn()
        token_ids, offset = batch.token_ids, 0
        for request_id, choice, text, count in zip(
            batch.request_ids, batch.choices, batch.texts, batch.counts, strict=True
        ):
            start = offset
            offset += 4 * count
            record = records.get(request_id)  # type: ignore[call-overload]
            if record is not None:
                so_far = record.choices[choice]
                so_far.ids += token_ids[start:offset]
                so_far.num_chars += len(text)
                record.mailbox.deliver(Delta(record.position * record.generate.n + choice, text, count), at_once)

    def _is_first_of_turn(self) -> bool:
        """Whether no batch came yet in this turn of the event loop: what follows in one turn is better joined."""
        if self._has_had_turn:
            return False
        self._has_had_turn = True
        self._loop.call_soon(self._end_turn)
        return True

    def _end_turn(self) -> None:
        self._has_had_turn = False

    def deliver(self, batch: TextBatch) -> None:
        """A step's rows of which some begin, end, or carry logprobs or ids."""
        started = {one.row: one for one in batch.started}
        finished = {one.row: one for one in batch.finished}
        logprobs = {one.row: one for one in batch.logprobs}
        prompt_logprobs = {one.row: one for one in batch.prompt_logprobs}
        offset = 0
        for row, request_id in enumerate(batch.request_ids):
            count = batch.counts[row]
            end = offset + 4 * count
            ids, offset = batch.token_ids[offset:end], end
            record = self._records.get(RequestId(request_id))
            if record is None:
                continue
            so_far = record.choices[batch.choices[row]]
            so_far.ids += ids
            so_far.num_chars += len(batch.texts[row])
            delta = Delta(record.first_index + batch.choices[row], batch.texts[row], count)
            if record.generate.text.return_prompt_ids:
                delta.token_ids = ids
            if (begin := started.get(row)) is not None and not so_far.is_started:
                if not any(choice.is_started for choice in record.choices):
                    record.mailbox.begin(record.position, begin.queue_seconds)
                so_far.is_started = True
                delta.num_cached_tokens = begin.num_cached_tokens
            if (found := logprobs.get(row)) is not None:
                delta.tokens, delta.top = found.tokens, found.top
            if (found := prompt_logprobs.get(row)) is not None:
                delta.prompt_tokens, delta.prompt_top = found.tokens, found.top
            if (finish := finished.get(row)) is None:
                record.mailbox.deliver(delta)
            else:
                self._end(record, batch.choices[row], delta, finish)

    def _end(self, record: Record, choice: int, delta: Delta, finish: Finished) -> None:
        """The last row of a choice, or of this attempt at it."""
        if finish.reason in ("stop", "length"):
            delta.finish_reason, delta.stop_reason = finish.reason, finish.stop_reason
            if record.mailbox.wants_output_ids:
                delta.output_ids = bytes(record.choices[choice].ids)
            record.mailbox.deliver(delta)
            self._on_end(record, choice)
        elif finish.reason in RESUMABLE:
            if delta.text or delta.count:
                record.mailbox.deliver(delta)
            self._on_lost(record, finish.reason)
        else:
            record.mailbox.deliver(delta)
            message = finish.message or "The request was aborted by the server."
            record.mailbox.fail(AnswerFailed(INTERNAL_ERROR, message))
            self._on_end(record, choice)
