"""The tokenizer of one checkpoint: text to token ids, and the tables back.

Used by the preparation of a request (encode) and for each choice (a detokenizer). Special tokens
are matched only in what a chat template wrote, never in a user's text.
Knows nothing of requests, limits or messages.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec
from tokenizers import AddedToken, Tokenizer

from .detokenizer import ByteDetokenizer, Detokenizer, ShowingDetokenizer, WindowDetokenizer
from .special_text import Revealed, SpecialText
from .token_bytes import TokenTexts, byte_table, component, decoder_kinds, token_strings
from .tokenizer_files import TokenizerFiles

_SHRINK_OF_NORMALIZERS = {"NFC": 4, "NFKC": 4, "NFD": 1, "NFKD": 1, "Prepend": 1}
"""How many characters a normalizer may make one of."""


class Rendered(msgspec.Struct, frozen=True):
    """A text in which special tokens' strings stand for special tokens: all, or only those listed."""

    text: str
    revealed: Revealed | None = None


class TextTokenizer:
    """Thread-safe: nothing changes after construction but `texts`, which only grows."""

    def __init__(self, files: TokenizerFiles) -> None:
        backend = files.backend
        self._path = files.path if backend.truncation is None and backend.padding is None else None
        backend.no_truncation()
        backend.no_padding()
        added = backend.get_added_tokens_decoder()
        self.special_ids = frozenset(token_id for token_id, token in added.items() if token.special)
        self.special_token_ids = {
            token.content: token_id for token_id, token in added.items() if token.special or _is_marker(token.content)
        }
        """By their strings, those that a grammar names as tokens: llguidance takes an added one in <> for special."""
        self.special_text = SpecialText(added[token_id].content for token_id in self.special_ids)
        self._ids_of_specials = {added[token_id].content: token_id for token_id in self.special_ids}
        self.named_tokens = files.named_tokens
        bos = files.named_tokens.get("bos_token")
        self._bos_id = backend.token_to_id(bos) if bos else None
        self._with_specials = backend
        self._plain = _plain_copy(backend, added)
        self._marks = _Marks(self._plain, added)
        self._added_strings = {token_id: token.content for token_id, token in added.items()}
        strings = self.strings = token_strings(backend)
        table = byte_table(strings, decoder_kinds(backend))
        self._has_byte_table = table is not None
        if table is None:
            table = [string.encode() for string in strings]
        self.texts = TokenTexts.make(table, self.special_ids)
        self.max_chars_per_token = _max_chars_per_token(backend, max(map(len, strings), default=1))

    def encode_texts(self, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
        """Ids of plain texts; no string in them becomes a special token. Releases the GIL."""
        return [e.ids for e in self._plain.encode_batch_fast(list(texts), add_special_tokens=add_special_tokens)]

    def encode_rendered(self, rendered: Sequence[Rendered], add_special_tokens: bool) -> list[list[int]]:
        """Ids of rendered chats, never with a doubled BOS. Releases the GIL."""
        found: list[list[int]] = [[]] * len(rendered)
        simple = [index for index, chat in enumerate(rendered) if chat.revealed is None]
        if simple:
            texts = [rendered[index].text for index in simple]
            encodings = self._with_specials.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
            for index, encoding in zip(simple, encodings, strict=True):
                found[index] = encoding.ids
        for index, chat in enumerate(rendered):
            if chat.revealed is not None:
                found[index] = self._encode_revealed(chat.revealed, add_special_tokens)
        return [self._without_doubled_bos(ids) for ids in found]

    def _encode_revealed(self, revealed: Revealed, add_special_tokens: bool) -> list[int]:
        text, special_ids = self._marks.replace(revealed)
        (ids,) = self.encode_texts([text], add_special_tokens)
        following = iter(special_ids)
        marks = self._marks.ids
        return [next(following) if token_id in marks else token_id for token_id in ids]

    def _without_doubled_bos(self, ids: list[int]) -> list[int]:
        if len(ids) > 1 and self._bos_id is not None and ids[0] == ids[1] == self._bos_id:
            return ids[1:]
        return ids

    def to_json(self) -> bytes:
        """The tokenizer in the form of tokenizer.json: the file itself, where there is one."""
        return self._path.read_bytes() if self._path is not None else self._with_specials.to_str().encode()

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The whole text of ids; ids without a token have none."""
        detokenizer = self.detokenizer(skip_special_tokens, True)
        return "".join(map(detokenizer.push, token_ids)) + detokenizer.flush()

    def special_tokens(self, texts: Sequence[str]) -> dict[int, str]:
        """Those of these texts that are special tokens, by id."""
        ids = self._ids_of_specials
        return {ids[text]: text for text in texts if text in ids}

    def detokenizer(
        self, skip_special_tokens: bool, spaces_between_special_tokens: bool, shown_specials: Sequence[str] = ()
    ) -> Detokenizer:
        """A fresh one, for one choice. Only decoders that join words with spaces look at the second.

        `shown_specials`: texts of special tokens that are not skipped.
        """
        shown = self.special_tokens(shown_specials) if skip_special_tokens else {}
        plain = self._detokenizer(skip_special_tokens, spaces_between_special_tokens)
        return ShowingDetokenizer(plain, shown) if shown else plain

    def _detokenizer(self, skip_special_tokens: bool, spaces_between_special_tokens: bool) -> Detokenizer:
        texts = self.texts
        if self._has_byte_table:
            if skip_special_tokens:
                return ByteDetokenizer(texts.texts_without_special, texts.bytes_without_special)
            return ByteDetokenizer(texts.texts, texts.token_bytes)
        return WindowDetokenizer(
            lambda ids: self._with_specials.decode(ids, skip_special_tokens=False),
            self.special_ids if skip_special_tokens else frozenset(),
            {} if spaces_between_special_tokens else self._added_strings,
        )


def _is_marker(content: str) -> bool:
    return content.startswith("<") and content.endswith(">")


def _plain_copy(backend: Tokenizer, added: dict[int, AddedToken]) -> Tokenizer:
    """One that takes special tokens' strings for plain text; shares the model (the bulk) when it can."""
    plain = Tokenizer(backend.model)
    plain.normalizer = backend.normalizer
    plain.pre_tokenizer = backend.pre_tokenizer
    if backend.post_processor is not None:
        plain.post_processor = backend.post_processor
    for _, token in sorted(added.items()):
        (plain.add_special_tokens if token.special else plain.add_tokens)([token])
    if plain.get_added_tokens_decoder() != added:
        plain = Tokenizer.from_str(backend.to_str())
    plain.encode_special_tokens = True
    return plain


class _Marks:
    """Unguessable strings that stand for special tokens in a text whose other specials are plain.

    One for each way in which special tokens take the white space beside them.
    """

    def __init__(self, plain: Tokenizer, added: dict[int, AddedToken]) -> None:
        self._by_content: dict[str, tuple[str, int]] = {}
        """Special token's string -> (mark, special token's id)."""
        marks: dict[tuple[bool, bool], str] = {}
        for token_id, token in added.items():
            if token.special:
                sides = (token.lstrip, token.rstrip)
                mark = marks.setdefault(sides, f"\ue000{secrets.token_hex(16)}\ue001")
                self._by_content[token.content] = (mark, token_id)
        for (lstrip, rstrip), mark in marks.items():
            plain.add_tokens([AddedToken(mark, lstrip=lstrip, rstrip=rstrip, normalized=False, special=False)])
        self.ids = frozenset(plain.token_to_id(mark) for mark in marks.values())

    def replace(self, revealed: Revealed) -> tuple[str, list[int]]:
        """The text with marks for its special tokens, and their ids in order."""
        parts: list[str] = []
        special_ids: list[int] = []
        done = 0
        for start, end in revealed.specials:
            mark, token_id = self._by_content[revealed.text[start:end]]
            parts += (revealed.text[done:start], mark)
            special_ids.append(token_id)
            done = end
        parts.append(revealed.text[done:])
        return "".join(parts), special_ids


def _max_chars_per_token(backend: Tokenizer, longest: int) -> int | None:
    """How many characters of a text one id can stand for; None when that cannot be said."""
    kinds = decoder_kinds(backend)
    if "ByteLevel" not in kinds and "ByteFallback" not in kinds:
        return None  # a run of unknown characters may be one id
    if '"Removed"' in str(component(backend.pre_tokenizer)).replace("'", '"'):
        return None
    shrink = 1
    normalizer = component(backend.normalizer)
    for part in normalizer.get("normalizers", [normalizer] if normalizer else []):
        factor = _SHRINK_OF_NORMALIZERS.get(part["type"])
        if part["type"] == "Replace":
            pattern = part["pattern"].get("String")
            factor = 1 if pattern is not None and len(part["content"]) >= len(pattern) else None
        if factor is None:
            return None
        shrink *= factor
    return shrink * longest
