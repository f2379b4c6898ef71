"""Special tokens' strings: where a text holds them, and how a user's own stay plain text.

On the way down: the strings of a client are shielded before the chat template renders them, and
revealed afterwards, so that only what the template itself wrote becomes special token ids.
Knows neither templates nor ids.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

_WINDOW = 1 << 16
"""Characters searched at once: the regex engine keeps the interpreter to itself meanwhile."""


class Revealed(msgspec.Struct, frozen=True):
    """A rendered text in which only `specials` are special tokens: (start, end) of each, in order."""

    text: str
    specials: list[tuple[int, int]]


class SpecialText:
    """The strings of a tokenizer's special tokens."""

    def __init__(self, contents: Iterable[str]) -> None:
        self.contents = sorted({content for content in contents if content}, key=len, reverse=True)
        self._longest = len(self.contents[0]) if self.contents else 0
        self._leads = sorted({content[:2] for content in self.contents})
        self._pattern = re.compile("|".join(map(re.escape, self.contents))) if self.contents else None
        self._beginnings = {c[:k] for c in self.contents for k in range(1, len(c))}
        self._endings = {c[k:] for c in self.contents for k in range(1, len(c))}
        self._first_chars = frozenset(c[0] for c in self.contents)
        self._last_chars = frozenset(c[-1] for c in self.contents)

    def occurs_in(self, text: str) -> bool:
        return any(lead in text for lead in self._leads) and next(self.matches(text), None) is not None

    def matches(self, text: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, int]]:
        """(start, end) of each occurrence in text[start:stop], leftmost and longest first, none overlapping."""
        stop = len(text) if stop is None else stop
        if self._pattern is None:
            return
        while start < stop:
            end = min(stop, start + _WINDOW + self._longest)
            match = self._pattern.search(text, start, end)
            if match is None or (end < stop and match.start() >= start + _WINDOW):
                start += _WINDOW
                continue
            yield match.span()
            start = match.end()

    def leading_fragment(self, text: str) -> str:
        """The longest start of `text` that could end a special token begun before it; "" if none."""
        head = text[: self._longest - 1] if self._longest else ""
        if self._last_chars.isdisjoint(head):
            return ""
        return next((head[:k] for k in range(len(head), 0, -1) if head[:k] in self._endings), "")

    def trailing_fragment(self, text: str) -> str:
        """The longest end of `text` that could begin a special token ended after it; "" if none."""
        tail = text[-self._longest + 1 :] if self._longest > 1 else ""
        if self._first_chars.isdisjoint(tail):
            return ""
        return next((tail[k:] for k in range(len(tail)) if tail[k:] in self._beginnings), "")


class Shield:
    """Stands placeholders in for special text of one request: digits that nobody can guess.

    Digits pass a template's filters (trim, upper, tojson ...) unchanged. Parts of special tokens at
    the edges of a string are shielded too, since a template may join two strings of the client.
    """

    def __init__(self, special: SpecialText) -> None:
        self._special = special
        self._nonce = f"{secrets.randbits(128):039d}"
        self._placeholders: dict[str, str] = {}
        self._originals: list[str] = []

    def cover(self, value: Any) -> Any:
        """A copy of a JSON value whose strings (keys too) hold no special text."""
        if isinstance(value, str):
            return self._cover_text(value)
        if isinstance(value, dict):
            return {self._cover_text(key): self.cover(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.cover(item) for item in value]
        return value

    def _cover_text(self, text: str) -> str:
        special = self._special
        if special.occurs_in(text):
            for content in special.contents:
                if content in text:
                    text = text.replace(content, self._placeholder(content))
        fragment = special.trailing_fragment(text)
        if fragment:
            text = text[: -len(fragment)] + self._placeholder(fragment)
        fragment = special.leading_fragment(text)
        if fragment:
            text = self._placeholder(fragment) + text[len(fragment) :]
        return text

    def _placeholder(self, original: str) -> str:
        found = self._placeholders.get(original)
        if found is None:
            found = self._placeholders[original] = f"{self._nonce}{len(self._originals):05d}"
            self._originals.append(original)
        return found

    def reveal(self, rendered: str) -> Revealed | None:
        """The text with the client's own strings back in place; None when nothing was shielded in it."""
        if not self._originals or self._nonce not in rendered:
            return None
        pieces = re.split(f"{self._nonce}([0-9]{{5}})", rendered)
        parts: list[str] = []
        specials: list[tuple[int, int]] = []
        length = 0
        for index, piece in enumerate(pieces):
            if index % 2:
                piece = self._originals[int(piece)]
            else:
                specials += [(length + start, length + end) for start, end in self._special.matches(piece)]
            parts.append(piece)
            length += len(piece)
        return Revealed("".join(parts), specials)
