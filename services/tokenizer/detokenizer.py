"""The incremental detokenizer: token ids in, whole characters out.

On the way up, one for each choice. What comes out depends on the ids alone, not on how they are
cut; at most one incomplete UTF-8 sequence is held back, and never one that cannot become valid.
Knows nothing of stop strings or requests.
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Callable, Sequence
from typing import Protocol


class Detokenizer(Protocol):
    """What a choice's text comes from."""

    def push(self, token_id: int) -> str:
        """The characters that this token completes."""
        ...

    def flush(self) -> str:
        """What is left at the end, an incomplete character as U+FFFD."""
        ...


class ByteDetokenizer:
    """For tokenizers whose tokens are bytes; see token_bytes.py for the tables."""

    __slots__ = ("_pending", "_texts", "_token_bytes")

    def __init__(self, texts: Sequence[str | None], token_bytes: Sequence[bytes]) -> None:
        """`texts[id]`: the token's text if it is whole characters by itself; both without special tokens to skip."""
        self._texts = texts
        self._token_bytes = token_bytes
        self._pending = b""

    def push(self, token_id: int) -> str:
        if not self._pending:
            text = self._texts[token_id]
            if text is not None:
                return text
        data = self._pending + self._token_bytes[token_id]
        text, consumed = utf_8_decode(data, "replace", False)
        self._pending = data[consumed:]
        return text

    def flush(self) -> str:
        text = self._pending.decode("utf-8", "replace")
        self._pending = b""
        return text


class ShowingDetokenizer:
    """Another one, but for a few special tokens that are shown while the rest of them is skipped."""

    __slots__ = ("_inner", "_shown")

    def __init__(self, inner: Detokenizer, shown: dict[int, str]) -> None:
        """`shown`: id -> text."""
        self._inner = inner
        self._shown = shown

    def push(self, token_id: int) -> str:
        text = self._shown.get(token_id)
        return self._inner.push(token_id) if text is None else self._inner.flush() + text

    def flush(self) -> str:
        return self._inner.flush()


_MAX_WINDOW = 12
"""Tokens decoded at once at most."""
_MAX_UNSETTLED = 4
"""Tokens that may end in U+FFFD before it is taken for final: a character has at most 4 bytes."""


class WindowDetokenizer:
    """For any other tokenizer: decodes a short window of tokens with the tokenizer's own decoder.

    The window keeps some tokens that are already out, because a decoder may set or leave out a
    space depending on the token before.
    """

    __slots__ = ("_added", "_decode", "_ids", "_is_skipped", "_num_out", "_was_added")

    def __init__(
        self,
        decode: Callable[[list[int]], str],
        skipped_ids: frozenset[int],
        unspaced: dict[int, str],
    ) -> None:
        """`skipped_ids` have no text; two `unspaced` tokens in a row get no space between."""
        self._decode = decode
        self._is_skipped = skipped_ids.__contains__
        self._added = unspaced
        self._ids: list[int] = []
        self._num_out = 0
        """Tokens of the window whose text is out."""
        self._was_added = False

    def push(self, token_id: int) -> str:
        if self._is_skipped(token_id):
            return ""
        raw = self._added.get(token_id)
        was_added, self._was_added = self._was_added, raw is not None
        if raw is not None and was_added:
            text = self.flush()
            self._ids, self._num_out = [token_id], 1
            return text + raw
        self._ids.append(token_id)
        return self._settle(_MAX_UNSETTLED)

    def flush(self) -> str:
        return self._settle(0)

    def _settle(self, max_unsettled: int) -> str:
        unsettled = len(self._ids) - self._num_out
        if not unsettled:
            return ""
        before = self._decode(self._ids[: self._num_out])
        after = self._decode(self._ids)
        if after.endswith("\N{REPLACEMENT CHARACTER}") and unsettled < max_unsettled:
            return ""
        self._num_out = len(self._ids)
        if self._num_out >= _MAX_WINDOW:
            self._ids = self._ids[-_MAX_WINDOW // 2 :]
            self._num_out = len(self._ids)
        return after[len(before) :]
