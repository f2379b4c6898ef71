"""By which of a checkpoint's tokens its reasoning is counted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer

from quire.services.tokenizer.model import reasoning_ids
from quire.services.tokenizer.tokenizer import TextTokenizer
from quire.services.tokenizer.tokenizer_files import read_tokenizer_files
from quire.shared.messages import ReasoningIds
from quire.shared.model_files import DEMO_MODEL

SPECIALS = ["<think>", "</think>", "<|channel|>", "<|message|>", "<|start|>", "<|end|>", "<|return|>", "<|call|>"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> TextTokenizer:
    made = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))
    made.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    made.save(str(tmp_path / "tokenizer.json"))
    return TextTokenizer(read_tokenizer_files(tmp_path))


def test_each_format_is_known_by_its_markers(tokenizer: TextTokenizer) -> None:
    def id_of(text: str) -> int:
        return tokenizer.special_token_ids[text]

    assert reasoning_ids(tokenizer, "") == ReasoningIds()
    assert reasoning_ids(tokenizer, "think") == ReasoningIds(ends=[id_of("</think>")])
    harmony = reasoning_ids(tokenizer, "harmony")
    analysis = tokenizer.encode_texts(["analysis"], False)[0]
    assert harmony.start == [id_of("<|channel|>"), *analysis]
    assert harmony.ends == [id_of(text) for text in ("<|end|>", "<|start|>", "<|return|>", "<|call|>")]


def test_an_end_of_several_tokens_cannot_be_counted(tokenizer: TextTokenizer) -> None:
    assert reasoning_ids(tokenizer, "granite") == ReasoningIds()
