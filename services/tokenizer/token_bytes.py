"""The table of what each token id is in bytes, made once at load.

Serves the detokenizer and the bytes of logprobs. Covers the two ways in which tokenizers write
bytes as token strings: byte-level (GPT-2's alphabet) and sentencepiece's (a metaspace for the
space, <0xAB> for a byte). Knows no text longer than a token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import msgspec
from tokenizers import Tokenizer

_METASPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class TokenTexts(msgspec.Struct):
    """Tables by token id. Ids past the tokenizer's (a padded vocabulary) are empty."""

    token_bytes: list[bytes]
    texts: list[str | None]
    """None where the bytes are not whole characters."""
    bytes_without_special: list[bytes]
    texts_without_special: list[str | None]

    @classmethod
    def make(cls, token_bytes: list[bytes], special_ids: Iterable[int]) -> TokenTexts:
        texts = [_whole(value) for value in token_bytes]
        tables = cls(token_bytes, texts, token_bytes.copy(), texts.copy())
        for token_id in special_ids:
            tables.bytes_without_special[token_id] = b""
            tables.texts_without_special[token_id] = ""
        return tables

    def grow(self, vocab_size: int) -> None:
        """Give every id below `vocab_size` an entry."""
        missing = vocab_size - len(self.token_bytes)
        if missing > 0:
            for table in (self.token_bytes, self.bytes_without_special):
                table.extend([b""] * missing)
            for texts in (self.texts, self.texts_without_special):
                texts.extend([""] * missing)


def _whole(value: bytes) -> str | None:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def token_strings(tokenizer: Tokenizer) -> list[str]:
    """By id; "" where there is no token."""
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    strings = [""] * (max(vocabulary.values(), default=-1) + 1)
    for token, token_id in vocabulary.items():
        strings[token_id] = token
    return strings


def byte_table(strings: list[str], kinds: set[str]) -> list[bytes] | None:
    """Bytes by token id, of token strings by id; None when a decoder of these kinds does more than join bytes."""
    if "ByteLevel" in kinds and kinds <= {"ByteLevel", "Fuse"}:
        return [_byte_level(string) for string in strings]
    if kinds and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        has_bytes = "ByteFallback" in kinds
        return [_metaspace(string, has_bytes) for string in strings]
    return None


def decoder_kinds(tokenizer: Tokenizer) -> set[str]:
    """The types of the decoder's parts. A Replace of anything but the metaspace counts as `Other`."""
    state = component(tokenizer.decoder)
    parts = state.get("decoders", [state]) if state else []
    kinds = set()
    for part in parts:
        is_other = part["type"] == "Replace" and (
            part.get("pattern") != {"String": _METASPACE} or part.get("content") != " "
        )
        kinds.add("Other" if is_other else part["type"])
    return kinds


def component(part: object) -> dict:
    """A part of a tokenizer (decoder, normalizer ...) as tokenizer.json has it; {} if there is none."""
    return {} if part is None else json.loads(part.__getstate__())  # type: ignore[attr-defined]


def _byte_level_alphabet() -> dict[int, int]:
    """GPT-2's printable stand-ins: a character's code to its byte; to no byte for the codes it does not use."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return dict.fromkeys(others, 0xFFFF) | {256 + n: byte for n, byte in enumerate(others)}


_ALPHABET = _byte_level_alphabet()


def _byte_level(token: str) -> bytes:
    try:
        return token.translate(_ALPHABET).encode("latin-1")
    except UnicodeEncodeError:
        return token.encode()  # an added token, written as it is


def _metaspace(token: str, has_bytes: bool) -> bytes:
    if has_bytes:
        match = _BYTE_TOKEN.match(token)
        if match:
            return bytes.fromhex(match[1])
    return token.replace(_METASPACE, " ").encode()
