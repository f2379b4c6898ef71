"""Logprobs of a row from the engine's columns of ids to entries with the tokens' bytes.

On the way up, only for requests that asked. Knows no text: a token may hold half a character.
"""

from __future__ import annotations

from collections.abc import Sequence

from quire.shared.messages import LogprobEntry, TextLogprobs, TokenLogprobs

from .token_ids import unpack_floats, unpack_ids


def text_logprobs(
    source: TokenLogprobs, row: int, token_ids: Sequence[int], shown: Sequence[bytes], token_bytes: Sequence[bytes]
) -> TextLogprobs:
    """`token_ids`: the row's tokens in order; `shown`: their bytes in the text; `token_bytes`: any token's."""
    values = unpack_floats(source.logprobs)
    ranks = unpack_ids(source.ranks)
    top_ids = unpack_ids(source.top_ids)
    top_values = unpack_floats(source.top_logprobs)
    num_top = len(top_ids) // len(values) if values else 0
    tokens = [
        LogprobEntry(token_id, token, value, rank)
        for token_id, token, value, rank in zip(token_ids, shown, values, ranks, strict=False)
    ]
    likeliest = [
        LogprobEntry(token_id, token_bytes[token_id], value, place % num_top + 1)
        for place, (token_id, value) in enumerate(zip(top_ids, top_values, strict=True))
    ]
    top = [likeliest[index * num_top : (index + 1) * num_top] for index in range(len(tokens))]
    return TextLogprobs(row, tokens, top)
