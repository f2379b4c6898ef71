"""Stopping: whether a token ends its choice, and with what finish reason.

Stop strings are text and end in the tokenizer; the length limit is `Choice.limit`.
"""

from __future__ import annotations

from .request import Choice


class Ending:
    """Why a choice ended: a finish reason, and the stop token id if the client asked for that one."""

    __slots__ = ("reason", "stop_reason")

    def __init__(self, reason: str, stop_reason: int | None = None) -> None:
        self.reason = reason
        self.stop_reason = stop_reason


COMPLETE = Ending("stop")
"""Nothing can follow in the choice's grammar: no EOS needs to be sampled after it."""
_EOS = Ending("stop")
_LENGTH = Ending("length")


def stop_ids_of(choice: Choice, eos_token_ids: frozenset[int]) -> frozenset[int]:
    """All tokens that end it.

    Workers do not sample EOS or stop tokens before min_tokens, so these need no count here.
    """
    sampling = choice.request.submit.sampling
    own = frozenset(sampling.stop_token_ids or ())
    return own if sampling.ignore_eos else own | eos_token_ids


def ending(choice: Choice, token: int, eos_token_ids: frozenset[int]) -> Ending | None:
    """What `token`, already appended to the choice, ends it with; None when it goes on."""
    if token in choice.stop_ids:
        is_eos = token in eos_token_ids and not choice.request.submit.sampling.ignore_eos
        return _EOS if is_eos else Ending("stop", token)
    if choice.num_known >= choice.limit:
        return _LENGTH
    return None
