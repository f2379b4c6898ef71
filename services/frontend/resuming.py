"""Resuming: what becomes of a record whose attempt was lost, and which may be submitted again now.

A request that was in the batch of two crashes of an engine or worker is a suspect: it is submitted once
more, alone, and a third crash is its end. Asked by tokenizer_client.py. Knows no links.
"""

from __future__ import annotations

from collections.abc import Iterable

from quire.shared.errors import INTERNAL_ERROR, SERVICE_UNAVAILABLE

from .mailbox import AnswerFailed
from .record import Record

MAX_CRASHES = 2
"""After so many a request runs alone."""
MAX_UNPREPARED = 3
"""After so many tokenizers that were lost while they prepared it a request ends."""
_RETRY_SECONDS = 2.0


class Resuming:
    """The rules; `is_on` False ends every lost record with a clean error."""

    def __init__(self, is_on: bool, timeout_seconds: float) -> None:
        self._is_on = is_on
        self._timeout_seconds = timeout_seconds

    def lost(self, record: Record, cause: str, now: float) -> AnswerFailed | None:
        """Note that the present attempt has come to nothing; why the record must end, or None: it may go on.

        `cause`: tokenizer (its tokenizer is gone) | lost | moved (see Finished) | unavailable (refused for now).
        """
        if not self._is_on:
            message = "A process that served this request was lost; please send it again."
            return AnswerFailed(SERVICE_UNAVAILABLE, message, retry_after_seconds=_RETRY_SECONDS)
        if cause == "lost":
            record.num_crashes += 1
            if record.is_suspect:
                message = (
                    f"The model's processes crashed {record.num_crashes} times while this request was running,"
                    " the last time it alone; it is not tried again."
                )
                return AnswerFailed(INTERNAL_ERROR, message)
            record.is_suspect = record.num_crashes >= MAX_CRASHES
        elif cause == "tokenizer" and not record.is_accepted:
            record.num_unprepared += 1
            if record.num_unprepared >= MAX_UNPREPARED:
                message = (
                    f"{record.num_unprepared} tokenizers were lost while they prepared this request; it ends here."
                )
                return AnswerFailed(INTERNAL_ERROR, message)
        record.is_accepted = False
        record.parked_since = record.parked_since or now
        return None

    def expired(self, record: Record, now: float) -> AnswerFailed | None:
        """Why a parked record must end, or None: it may wait longer."""
        if now - record.parked_since < self._timeout_seconds:
            return None
        message = f"What this request needs did not come back within {self._timeout_seconds:g} s."
        return AnswerFailed(SERVICE_UNAVAILABLE, message, retry_after_seconds=_RETRY_SECONDS)


def submittable(parked: Iterable[Record], under_way: Iterable[Record]) -> list[Record]:
    """Of the parked records those that may go now: of the suspects only one at a time."""
    is_suspect_out = any(record.is_suspect for record in under_way)
    found = []
    for record in parked:
        if record.is_suspect:
            if is_suspect_out:
                continue
            is_suspect_out = True
        found.append(record)
    return found
