"""The detokenizer against the tokenizers library, for any ids and any cut of them."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from quire.services.tokenizer.detokenizer import ByteDetokenizer
from quire.services.tokenizer.token_bytes import TokenTexts
from quire.services.tokenizer.tokenizer import TextTokenizer
from quire.shared.model_files import DEMO_MODEL


@functools.cache
def _library(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


@settings(max_examples=300, deadline=None)
@given(data=st.data(), skips=st.booleans())
def test_byte_level_text_equals_the_librarys_for_any_ids(
    byte_level: TextTokenizer, byte_level_folder: Path, data: st.DataObject, skips: bool
) -> None:
    library = _library(byte_level_folder)
    ids = data.draw(st.lists(st.integers(0, library.get_vocab_size() - 1), max_size=40))
    assert byte_level.decode(ids, skips) == library.decode(ids, skip_special_tokens=skips)


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 2047), max_size=40), skips=st.booleans())
def test_the_demo_models_text_equals_the_librarys_for_any_ids(demo: TextTokenizer, ids: list[int], skips: bool) -> None:
    assert demo.decode(ids, skips) == _library(DEMO_MODEL).decode(ids, skip_special_tokens=skips)


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_comes_back_from_byte_level_ids(byte_level: TextTokenizer, text: str) -> None:
    (ids,) = byte_level.encode_texts([text], add_special_tokens=False)
    assert byte_level.decode(ids) == text


@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_characters="▁", exclude_categories=["Cs"]), max_size=60))
def test_any_text_comes_back_from_metaspace_ids_behind_a_prompt(metaspace: TextTokenizer, text: str) -> None:
    (prompt, whole) = metaspace.encode_texts(["x", "x" + text], add_special_tokens=False)
    assert metaspace.decode(whole) == " x" + text
    assert metaspace.decode(prompt) == " x"


@settings(max_examples=300, deadline=None)
@given(tokens=st.lists(st.binary(max_size=5), max_size=20))
def test_bytes_decode_as_python_does_and_only_a_possible_character_is_held_back(tokens: list[bytes]) -> None:
    table = TokenTexts.make(tokens, [])
    detokenizer = ByteDetokenizer(table.texts, table.token_bytes)
    so_far, data = "", b""
    for token_id, token in enumerate(tokens):
        so_far += detokenizer.push(token_id)
        data += token
        held = data[len(so_far.encode()) :] if "\ufffd" not in so_far else b""
        assert len(held) <= 3
        assert data.decode("utf-8", "replace").startswith(so_far)
    assert so_far + detokenizer.flush() == data.decode("utf-8", "replace")


def test_half_a_character_waits_and_an_invalid_byte_does_not() -> None:
    table = TokenTexts.make([b"\xf0\x9f", b"\x98\x80", b"\xff", b"a"], [])
    detokenizer = ByteDetokenizer(table.texts, table.token_bytes)
    assert detokenizer.push(0) == ""
    assert detokenizer.push(1) == "😀"
    assert detokenizer.push(2) == "\ufffd"
    assert detokenizer.push(0) == ""
    assert detokenizer.push(3) == "\ufffda"
    assert detokenizer.push(0) == ""
    assert detokenizer.flush() == "\ufffd"
    assert detokenizer.flush() == ""


def test_a_skipped_special_token_does_not_break_a_character() -> None:
    table = TokenTexts.make([b"\xe6\x97", b"\xa5", b"<s>"], [2])
    detokenizer = ByteDetokenizer(table.texts_without_special, table.bytes_without_special)
    assert [detokenizer.push(token_id) for token_id in (0, 2, 1)] == ["", "", "日"]


def test_ids_past_the_tokenizers_own_have_no_text() -> None:
    table = TokenTexts.make([b"a"], [])
    table.grow(5)
    detokenizer = ByteDetokenizer(table.texts, table.token_bytes)
    assert detokenizer.push(0) + detokenizer.push(4) == "a"


def test_bytes_of_tokens_joined_are_the_bytes_of_the_text(byte_level: TextTokenizer) -> None:
    text = "naïve 日本語 😀 text"
    (ids,) = byte_level.encode_texts([text], add_special_tokens=False)
    assert b"".join(byte_level.texts.token_bytes[token_id] for token_id in ids) == text.encode()


@pytest.mark.parametrize("text", ["the quick brown fox", "hello what is the dog", "system tool"])
def test_other_decoders_give_the_librarys_text_token_by_token(
    wordpiece: TextTokenizer, wordpiece_folder: Path, text: str
) -> None:
    library = _library(wordpiece_folder)
    ids = library.encode(text).ids * 6
    assert wordpiece.decode(ids) == library.decode(ids, skip_special_tokens=False)
    detokenizer = wordpiece.detokenizer(False, True)
    assert sum(1 for token_id in ids if detokenizer.push(token_id)) == len(ids)


def test_unspaced_added_tokens_follow_each_other_without_a_space(wordpiece: TextTokenizer) -> None:
    separator = 1
    spaced = wordpiece.detokenizer(False, True)
    unspaced = wordpiece.detokenizer(False, False)
    assert "".join(map(spaced.push, [separator, separator])) == "[SEP] [SEP]"
    assert "".join(map(unspaced.push, [separator, separator])) == "[SEP][SEP]"
