"""Logprobs of a row from the engine's columns of ids to entries with the tokens' bytes.

On the way up, only for requests that asked. Knows no text: a token may hold half a character.
"""

from __future__ import annotations

from collections.abc import Sequence

from quire.shared.messages import LogprobEntry, TextLogprobs, TokenLogprobs

from .token_ids import unpack_floats, unpack_ids


def text_logprobs(
    source: TokenLogprobs, row: int, token_ids: Sequence[int], token_bytes: Sequence[bytes]
) -> TextLogprobs:
    """`token_ids`: the row's tokens, in order; those past what `source` holds are left out."""
    values = unpack_floats(source.logprobs)
    ranks = unpack_ids(source.ranks)
    top_ids = unpack_ids(source.top_ids)
    top_values = unpack_floats(source.top_logprobs)
    num_top = len(top_ids) // len(values) if values else 0
    tokens = [
        LogprobEntry(token_id, token_bytes[token_id], value, rank)
        for token_id, value, rank in zip(token_ids, values, ranks, strict=False)
    ]
    top = (
        [
            [
                LogprobEntry(top_ids[place], token_bytes[top_ids[place]], top_values[place], place - start + 1)
                for place in range(start, start + num_top)
            ]
            for start in range(0, len(tokens) * num_top, num_top)
        ]
        if num_top
        else [[] for _ in tokens]
    )
    return TextLogprobs(row, tokens, top)
