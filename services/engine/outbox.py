"""The outbox: what a step produced, gathered into one TokenBatch per tokenizer."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

from quire.shared.messages import Finished, Started, TokenBatch, TokenLogprobs

from .request import Choice


class Columns:
    """A TokenBatch being written."""

    __slots__ = ("choices", "counts", "finished", "logprobs", "prompt_logprobs", "request_ids", "started", "token_ids")

    def __init__(self) -> None:
        self.request_ids: list[int] = []
        self.choices: list[int] = []
        self.counts: list[int] = []
        self.token_ids = array("i")
        self.started: list[Started] = []
        self.finished: list[Finished] = []
        self.logprobs: list[TokenLogprobs] = []
        self.prompt_logprobs: list[TokenLogprobs] = []

    def add(self, request_id: int, choice: int, count: int) -> int:
        """A row; its place, for `finished` and the like. Its `count` ids are the caller's to append."""
        self.request_ids.append(request_id)
        self.choices.append(choice)
        self.counts.append(count)
        return len(self.counts) - 1

    def add_token(self, request_id: int, choice: int, token: int) -> None:
        """A row of one token; its place is `last`."""
        self.request_ids.append(request_id)
        self.choices.append(choice)
        self.counts.append(1)
        self.token_ids.append(token)

    @property
    def last(self) -> int:
        """The place of the row added last."""
        return len(self.counts) - 1


class Outbox:
    """Rows by tokenizer; `flush` hands out and forgets them."""

    def __init__(self) -> None:
        self._columns: dict[str, Columns] = {}

    def columns(self, peer: str) -> Columns:
        """The batch that is being written for a tokenizer."""
        columns = self._columns.get(peer)
        if columns is None:
            columns = self._columns[peer] = Columns()
        return columns

    def nothing(self, choice: Choice) -> tuple[Columns, int]:
        """A row without a token, for an end or for prompt logprobs alone; and its place."""
        request = choice.request
        columns = self.columns(request.peer)
        return columns, columns.add(request.submit.request_id, choice.index, 0)

    def end(self, peer: str, request_id: int, choice: int, reason: str, message: str) -> None:
        """An end that is not the choice's own."""
        columns = self.columns(peer)
        columns.finished.append(Finished(columns.add(request_id, choice, 0), reason, message=message))

    def flush(self) -> Iterator[tuple[str, TokenBatch]]:
        columns_by_peer, self._columns = self._columns, {}
        for peer, columns in columns_by_peer.items():
            yield (
                peer,
                TokenBatch(
                    request_ids=columns.request_ids,
                    choices=columns.choices,
                    counts=columns.counts,
                    token_ids=columns.token_ids.tobytes(),
                    started=columns.started,
                    finished=columns.finished,
                    logprobs=columns.logprobs,
                    prompt_logprobs=columns.prompt_logprobs,
                ),
            )


def prompt_logprobs_of(chunks: dict[int, TokenLogprobs], row: int) -> TokenLogprobs:
    """One entry from the chunks of a prompt, by first position; overlaps (a recomputed part) are left out."""
    parts: list[TokenLogprobs] = []
    position = 0
    while (chunk := chunks.get(position)) is not None and chunk.logprobs:
        parts.append(chunk)
        position += len(chunk.logprobs) // 4
    return TokenLogprobs(
        row=row,
        logprobs=b"".join(part.logprobs for part in parts),
        ranks=b"".join(part.ranks for part in parts),
        top_ids=b"".join(part.top_ids for part in parts),
        top_logprobs=b"".join(part.top_logprobs for part in parts),
    )
