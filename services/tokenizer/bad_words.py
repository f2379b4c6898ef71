"""Bad words: the token ids that a request's bad_words are written with, and may not be sampled as.

Part of a request's preparation. Each word counts as it stands at the beginning of a text and behind a space;
what is one token is banned outright, of several tokens the last one behind the others. Knows no links.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from quire.shared.errors import INVALID_VALUE, ApiError, echo
from quire.shared.messages import Submit

from .token_ids import pack_ids
from .validation import Limits, check_ids

Encode = Callable[[Sequence[str], bool], list[list[int]]]


class BadIds(msgspec.Struct, frozen=True):
    """What may not be sampled."""

    token_ids: list[int]
    """Single ones, ascending."""
    sequences: list[bytes]
    """int32 ids, two or more."""


def bad_ids(words: Sequence[str], encode: Encode, limits: Limits, allowed: list[int] | None = None) -> BadIds:
    """`encode`: texts to ids, without special tokens where told so; `allowed`: the request's own. Raises ApiError."""
    forms = [(index, form) for index, word in enumerate(words) for form in _forms(word)]
    encoded = encode([form for _, form in forms], False)
    found = dict.fromkeys((index, tuple(ids)) for (index, _), ids in zip(forms, encoded, strict=True))
    for index, ids in found:
        if not ids:
            message = f"bad_words[{index}], {echo(words[index])!r}, has no token in this model's vocabulary"
            raise ApiError(INVALID_VALUE, message, "bad_words")
        check_ids("bad_words", ids, limits)
    token_ids = sorted({ids[0] for _, ids in found if len(ids) == 1})
    if allowed and set(allowed) <= set(token_ids):
        message = "bad_words has every token of allowed_token_ids: no token could be sampled"
        raise ApiError(INVALID_VALUE, message, "bad_words")
    sequences = dict.fromkeys(pack_ids(list(ids)) for _, ids in found if len(ids) > 1)
    return BadIds(token_ids, list(sequences))


def without_bad_words(submit: Submit, bad: BadIds) -> Submit:
    """The same request, these ids banned."""
    token_ids = sorted({*submit.sampling.bad_token_ids, *bad.token_ids})
    sampling = msgspec.structs.replace(submit.sampling, bad_token_ids=token_ids)
    return msgspec.structs.replace(submit, sampling=sampling, bad_sequences=bad.sequences)


def _forms(word: str) -> list[str]:
    """As vLLM has them: with and without one space before it; of a word of spaces, itself."""
    bare = word.lstrip(" ")
    return [bare, f" {bare}"] if bare else [word]
