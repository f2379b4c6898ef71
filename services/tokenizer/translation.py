"""Translation of an engine's TokenBatch into text: the hot path on the way up.

One pass over the rows of a step; each row's delta goes into the outbox of its frontend. Rows of
requests or choices that have ended here are passed over: their abort is on its way.
Knows no links.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from quire.shared.messages import RESUMABLE, Abort, Finished, Started, TokenBatch

from .choice_text import ChoiceText
from .logprobs import text_logprobs
from .outbox import Outbox
from .request import Request
from .token_bytes import TokenTexts
from .token_ids import unpack_ids


class Translation(msgspec.Struct):
    """What a batch led to, beside the rows in the outboxes."""

    outboxes: list[Outbox] = []
    """Those that got rows."""
    aborts: list[Abort] = []
    """For the engine: choices that a stop string ended."""
    ended: list[Request] = []
    """Requests without an open choice."""


class _Row(NamedTuple):
    """Where a row of the batch went, for what refers to it."""

    request: Request
    row: int
    """In its outbox."""
    token_ids: list[int]
    num_shown: int
    """Of the tokens; the text of one that stops its choice is left out."""


def translate(batch: TokenBatch, requests: Mapping[int, Request], texts: TokenTexts) -> Translation:
    """Append every row of `batch` to its frontend's outbox."""
    translation = Translation()
    outboxes: dict[Outbox, None] = {}
    finished = {end.row: end for end in batch.finished}
    has_extras = bool(batch.started or batch.logprobs or batch.prompt_logprobs)
    rows: dict[int, _Row] = {}
    get = requests.get
    choice_indices, counts = batch.choices, batch.counts
    ids = unpack_ids(batch.token_ids)
    place = 0
    for row, request_id in enumerate(batch.request_ids):
        count = counts[row]
        start = place
        place += count
        request = get(request_id)
        choice_index = choice_indices[row]
        if request is None or not request.choices or (choice := request.choices[choice_index]) is None:
            continue
        end = finished.get(row)
        used = num_shown = count
        if count == 1 and end is None:
            text = choice.push(ids[start])
        else:
            text, used, num_shown = _push_all(choice, ids[start:place], end, request.shows_stop)
        outbox = request.outbox
        outboxes[outbox] = None
        outbox.request_ids.append(request_id)
        outbox.choices.append(choice_index)
        outbox.texts.append(text)
        outbox.counts.append(used)
        outbox.token_ids += ids[start : start + used]
        if has_extras:
            rows[row] = _Row(request, len(outbox.counts) - 1, ids[start : start + used], num_shown)
        if end is not None or choice.found is not None:
            _end(translation, request, choice_index, choice.found, end)
    if has_extras:
        _add_extras(batch, rows, texts)
    translation.outboxes = list(outboxes)
    return translation


def _push_all(choice: ChoiceText, token_ids: list[int], end: Finished | None, shows_stop: bool) -> tuple[str, int, int]:
    """The text of a row; how many of its tokens count (up to one that completes a stop string), how many have text."""
    if end is not None and end.reason in RESUMABLE:
        return "", 0, 0
    is_silent = end is not None and end.reason == "stop" and not shows_stop
    num_shown = len(token_ids) - 1 if is_silent and token_ids else len(token_ids)
    parts = []
    for num_used, token_id in enumerate(token_ids[:num_shown], 1):
        parts.append(choice.push(token_id))
        if choice.found is not None:
            return "".join(parts), num_used, num_used
    if end is not None:
        parts.append(choice.flush())
    return "".join(parts), len(token_ids), num_shown


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


def _add_extras(batch: TokenBatch, rows: Mapping[int, _Row], texts: TokenTexts) -> None:
    """Starts and logprobs, for the rows that went out."""
    for start in batch.started:
        if (target := rows.get(start.row)) is not None:
            started = Started(target.row, start.num_cached_tokens, start.queue_seconds)
            target.request.outbox.started.append(started)
    table = texts.token_bytes
    for source in batch.logprobs:
        if (target := rows.get(source.row)) is not None:
            own = texts.bytes_without_special if target.request.skips_special else table
            # Joined, the tokens' bytes are the text's: a token without text has none.
            kept = target.request.shown_ids
            shown = [(table if one in kept else own)[one] for one in target.token_ids[: target.num_shown]]
            shown += [b""] * (len(target.token_ids) - target.num_shown)
            target.request.outbox.logprobs.append(text_logprobs(source, target.row, target.token_ids, shown, table))
    for source in batch.prompt_logprobs:
        if (target := rows.get(source.row)) is not None:
            ids = unpack_ids(target.request.prompt_ids)[1:]
            scored = text_logprobs(source, target.row, ids, [table[token_id] for token_id in ids], table)
            target.request.outbox.prompt_logprobs.append(scored)


def end_request(request: Request, reason: str, message: str) -> None:
    """End every open choice of a request, in its outbox.

    Where it may go on elsewhere (lost, moved), text that is held back is not let out: whoever goes on has it again.
    """
    for index in request.open_choices():
        choice = request.choices[index] if request.choices and reason not in RESUMABLE else None
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
