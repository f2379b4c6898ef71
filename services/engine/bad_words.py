"""Bad words of several tokens: which tokens would complete one, given what a choice has put out.

Made of a Submit, asked by masks.py once the tokens before a step are known; a pure function of the output ids, so
that preempted, forked and resumed choices need nothing. Single tokens are banned by the worker, without masks.
"""

from __future__ import annotations

from quire.shared.messages import Submit

_ID_BYTES = 4


class BadWords:
    """Of one request. Sequences are found by the last token of what must stand before their end."""

    __slots__ = ("_allowed", "_by_last", "_singles")

    def __init__(self, submit: Submit) -> None:
        sampling = submit.sampling
        self._singles = tuple(sampling.bad_token_ids)
        self._allowed = None if sampling.allowed_token_ids is None else frozenset(sampling.allowed_token_ids)
        self._by_last: dict[bytes, list[tuple[bytes, int]]] = {}
        for sequence in submit.bad_sequences:
            prefix, last = sequence[:-_ID_BYTES], int.from_bytes(sequence[-_ID_BYTES:], "little")
            self._by_last.setdefault(prefix[-_ID_BYTES:], []).append((prefix, last))

    @classmethod
    def of(cls, submit: Submit) -> BadWords | None:
        """None where there is nothing that a mask must say."""
        is_guided = submit.grammar is not None and submit.sampling.bad_token_ids
        return cls(submit) if submit.bad_sequences or is_guided else None

    def banned(self, ids: bytearray, num_prompt_tokens: int, is_guided: bool) -> list[int]:
        """Tokens that would complete a sequence. `ids`: int32 prompt and outputs; only outputs count.

        is_guided: single ones too, since beside a grammar it must be known here whether a token is left.
        """
        outputs_begin = _ID_BYTES * num_prompt_tokens
        found = [*self._singles] if is_guided else []
        if len(ids) > outputs_begin:
            for prefix, last in self._by_last.get(bytes(ids[-_ID_BYTES:]), ()):
                if ids.endswith(prefix, outputs_begin):
                    found.append(last)
        return found

    def leaves_none(self, banned: list[int]) -> bool:
        """Whether none of the request's allowed_token_ids is left."""
        return self._allowed is not None and self._allowed <= {*banned, *self._singles}
