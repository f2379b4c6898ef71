"""Tokenizers and their files, in the forms checkpoints have them, against transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from quire.services.tokenizer.model import load_model
from quire.services.tokenizer.special_text import SpecialText
from quire.services.tokenizer.tokenizer import Rendered, TextTokenizer
from quire.services.tokenizer.tokenizer_files import TokenizerFilesError, read_tokenizer_files
from quire.shared.config import TokenizerConfig
from quire.shared.model_files import DEMO_MODEL

TEXTS = ["Hello, what is 7 plus 5?", "  two  spaces\n\n", "日本語 😀", "x", "<think>a"]


def _variant(source: Path, target: Path, **config: Any) -> Path:
    shutil.copytree(source, target)
    path = target / "tokenizer_config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "tokenizer_class": "PreTrainedTokenizerFast", **config})
    )
    return target


@pytest.mark.parametrize("kind", ["byte_level_folder", "metaspace_folder"])
@pytest.mark.parametrize(
    "config",
    [{}, {"add_bos_token": True}, {"add_bos_token": False}, {"add_bos_token": True, "add_eos_token": True}],
)
def test_ids_are_those_of_transformers(
    kind: str, config: dict[str, bool], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = _variant(request.getfixturevalue(kind), tmp_path / "model", **config)
    ours, theirs = TextTokenizer(read_tokenizer_files(folder)), AutoTokenizer.from_pretrained(folder)
    for adds in (True, False):
        expected = [theirs.encode(text, add_special_tokens=adds) for text in TEXTS]
        assert ours.encode_texts(TEXTS, adds) == expected
        assert ours.encode_rendered([Rendered(text) for text in TEXTS], adds) == expected


def test_a_padded_or_truncating_tokenizer_file_does_neither_here(byte_level_folder: Path, tmp_path: Path) -> None:
    folder = _variant(byte_level_folder, tmp_path / "model")
    data = json.loads((folder / "tokenizer.json").read_text())
    data["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(data))
    tokenizer = TextTokenizer(read_tokenizer_files(folder))
    (ids,) = tokenizer.encode_texts(["a long text of many tokens"], add_special_tokens=False)
    assert tokenizer.decode(ids) == "a long text of many tokens"


def test_named_tokens_come_as_text_or_as_objects(byte_level: TextTokenizer) -> None:
    assert byte_level.named_tokens == {"bos_token": "<s>", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        ({"tokenizer_config.json": {"chat_template": "A"}}, {"default": "A"}),
        (
            {
                "tokenizer_config.json": {
                    "chat_template": [{"name": "default", "template": "A"}, {"name": "tool_use", "template": "B"}]
                }
            },
            {"default": "A", "tool_use": "B"},
        ),
        ({"tokenizer_config.json": {"chat_template": "A"}, "chat_template.jinja": "C"}, {"default": "C"}),
        ({"chat_template.json": {"chat_template": "D"}}, {"default": "D"}),
        (
            {"chat_template.json": {"chat_template": "D"}, "tokenizer_config.json": {"chat_template": "A"}},
            {"default": "A"},
        ),
        (
            {"additional_chat_templates/tool_use.jinja": "E", "chat_template.jinja": "C"},
            {"default": "C", "tool_use": "E"},
        ),
    ],
)
def test_chat_templates_are_found_where_checkpoints_put_them(
    files: dict[str, Any], expected: dict[str, str], byte_level_folder: Path, tmp_path: Path
) -> None:
    shutil.copy(byte_level_folder / "tokenizer.json", tmp_path)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content))
    assert read_tokenizer_files(tmp_path).chat_templates == expected


def test_a_given_template_file_replaces_the_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text("mine")
    assert read_tokenizer_files(DEMO_MODEL, str(path)).chat_templates == {"default": "mine"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", "\xff"),
    ],
)
def test_a_broken_file_is_named_in_a_sentence(name: str, content: str, byte_level_folder: Path, tmp_path: Path) -> None:
    folder = _variant(byte_level_folder, tmp_path / "model")
    (folder / name).write_text(content, encoding="latin-1")
    with pytest.raises(TokenizerFilesError, match=name):
        read_tokenizer_files(folder)


def test_a_template_that_is_not_jinja_is_refused_at_start(tmp_path: Path) -> None:
    path = tmp_path / "broken.jinja"
    path.write_text("{{ messages")
    with pytest.raises(TokenizerFilesError, match="broken.jinja is not valid Jinja"):
        load_model(TokenizerConfig(chat_template=str(path)))


def test_sampling_defaults_are_the_checkpoints_unless_switched_off() -> None:
    assert load_model(TokenizerConfig()).defaults.top_k == 20
    assert load_model(TokenizerConfig(generation_config="none")).defaults.top_k is None


def test_names_are_those_given_or_the_folders() -> None:
    assert load_model(TokenizerConfig(model=str(DEMO_MODEL))).names == ["demo_model"]
    assert load_model(TokenizerConfig(served_model_name=("a", "b"))).names == ["a", "b"]


def test_no_id_stands_for_more_characters_than_the_bound_says(
    byte_level: TextTokenizer, metaspace: TextTokenizer
) -> None:
    for tokenizer in (byte_level, metaspace):
        bound = tokenizer.max_chars_per_token
        assert bound is not None
        for text in (*TEXTS, "a" * 500, "\u1100\u1161\u11a8" * 50, " " * 300):
            (ids,) = tokenizer.encode_texts([text], add_special_tokens=False)
            assert len(text) <= bound * len(ids)


def test_a_tokenizer_that_drops_text_has_no_such_bound(wordpiece: TextTokenizer) -> None:
    assert wordpiece.max_chars_per_token is None


def test_a_tokenizer_without_special_tokens_encodes_chats() -> None:
    special = SpecialText([])
    assert not special.occurs_in("<s>") and special.leading_fragment("x") == special.trailing_fragment("x") == ""
