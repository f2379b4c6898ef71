"""Translation of an engine's TokenBatch into text: the hot path on the way up.

One pass over the rows of a step; each row's delta goes into the outbox of its frontend. Rows of
requests or choices that have ended here are passed over: their abort is on its way.
Knows no links.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from quire.shared.messages import Abort, Finished, Started, TokenBatch

from .choice_text import ChoiceText
from .logprobs import text_logprobs
from .outbox import Outbox
from .request import Request
from .token_ids import unpack_ids


class Translation(msgspec.Struct):
    """What a batch led to, beside the rows in the outboxes."""

    outboxes: list[Outbox] = []
    """Those that got rows."""
    aborts: list[Abort] = []
    """For the engine: choices that a stop string ended."""
    ended: list[Request] = []
    """Requests without an open choice."""


def translate(batch: TokenBatch, requests: Mapping[int, Request], token_bytes: Sequence[bytes]) -> Translation:
    """Append every row of `batch` to its frontend's outbox."""
    translation = Translation()
    outboxes: dict[Outbox, None] = {}
    finished = {end.row: end for end in batch.finished} if batch.finished else None
    has_extras = bool(batch.started or batch.logprobs or batch.prompt_logprobs)
    rows: list[tuple[Request, int, int, int] | None] = []
    get = requests.get
    choice_indices = batch.choices
    counts = batch.counts
    ids = unpack_ids(batch.token_ids)
    place = 0
    for row, request_id in enumerate(batch.request_ids):
        count = counts[row]
        start = place
        place += count
        request = get(request_id)
        choice_index = choice_indices[row]
        if request is None or not request.choices or (choice := request.choices[choice_index]) is None:
            if has_extras:
                rows.append(None)
            continue
        end = None if finished is None else finished.get(row)
        if count == 1 and end is None:
            token_id = ids[start]
            text = choice.push(token_id)
            used = place
        elif end is None or end.reason != "stop":
            text, used = _push_all(choice, ids, start, place)
        else:
            text, used = _push_stopped(choice, ids, start, place, request.shows_stop)
        if end is not None and choice.found is None:
            text += choice.flush()
        outbox = request.outbox
        outboxes[outbox] = None
        outbox.request_ids.append(request_id)
        outbox.choices.append(choice_index)
        outbox.texts.append(text)
        outbox.counts.append(used - start)
        if count == 1:
            outbox.token_ids.append(ids[start])
        else:
            outbox.token_ids += ids[start:used]
        if has_extras:
            rows.append((request, len(outbox.counts) - 1, start, used))
        if end is not None or choice.found is not None:
            _end(translation, request, choice_index, choice.found, end)
    if has_extras:
        _add_extras(batch, rows, ids, token_bytes)
    translation.outboxes = list(outboxes)
    return translation


def _push_all(choice: ChoiceText, ids: list[int], start: int, stop: int) -> tuple[str, int]:
    """The text of several tokens, and where in `ids` they end: after the one that completes a stop string."""
    parts = []
    for place in range(start, stop):
        parts.append(choice.push(ids[place]))
        if choice.found is not None:
            return "".join(parts), place + 1
    return "".join(parts), stop


def _push_stopped(choice: ChoiceText, ids: list[int], start: int, stop: int, shows_stop: bool) -> tuple[str, int]:
    """As above for a row that a stop token ended, whose own text is left out unless asked for."""
    if shows_stop or stop == start:
        return _push_all(choice, ids, start, stop)
    text, used = _push_all(choice, ids, start, stop - 1)
    return text, used if choice.found is not None else stop


def _end(
    translation: Translation, request: Request, choice_index: int, stop_string: str | None, end: Finished | None
) -> None:
    """Close a choice whose row has just been appended."""
    outbox = request.outbox
    row = len(outbox.counts) - 1
    if stop_string is not None:
        outbox.finished.append(Finished(row, "stop", stop_string))
        if end is None:
            translation.aborts.append(Abort(request.request_id, choice_index, "stop_string"))
    elif end is not None:
        outbox.finished.append(Finished(row, end.reason, end.stop_reason, end.message))
    request.end_choice(choice_index)
    if not request.num_open:
        translation.ended.append(request)


def _add_extras(
    batch: TokenBatch,
    rows: list[tuple[Request, int, int, int] | None],
    ids: list[int],
    token_bytes: Sequence[bytes],
) -> None:
    """Starts and logprobs, for the rows that went out."""
    for source in batch.started:
        if (target := rows[source.row]) is not None:
            request, row, _, _ = target
            request.outbox.started.append(Started(row, source.num_cached_tokens, source.queue_seconds))
    for source in batch.logprobs:
        if (target := rows[source.row]) is not None:
            request, row, start, used = target
            request.outbox.logprobs.append(text_logprobs(source, row, ids[start:used], token_bytes))
    for source in batch.prompt_logprobs:
        if (target := rows[source.row]) is not None:
            request, row, _, _ = target
            prompt_ids = unpack_ids(request.prompt_ids)[1:]
            request.outbox.prompt_logprobs.append(text_logprobs(source, row, prompt_ids, token_bytes))


def end_request(request: Request, reason: str, message: str) -> None:
    """End every open choice of a request, in its outbox."""
    for index in request.open_choices():
        choice = request.choices[index] if request.choices else None
        row = request.outbox.add_row(request.request_id, index, choice.flush() if choice is not None else "")
        request.outbox.finished.append(Finished(row, reason, message=message))
        if request.choices:
            request.end_choice(index)


def add_resumed(request: Request) -> list[Abort]:
    """Put what a resumed request's client has not had yet into the outbox; choices that it ends are to be aborted."""
    translation = Translation()
    for index, text in enumerate(request.resumed_texts):
        choice = request.choices[index]
        if choice is None or not (text or choice.found is not None):
            continue
        request.outbox.add_row(request.request_id, index, text)
        if choice.found is not None:
            _end(translation, request, index, choice.found, None)
    request.resumed_texts = []
    return translation.aborts
