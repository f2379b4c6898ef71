"""Tokenizers made here, of the kinds that checkpoints have: byte-level, sentencepiece-like, WordPiece."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from quire.services.tokenizer.tokenizer import TextTokenizer
from quire.services.tokenizer.tokenizer_files import read_tokenizer_files
from quire.shared.model_files import DEMO_MODEL

LINES = [
    "The quick brown fox jumps over the lazy dog, and the dog does not mind at all.",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "敏捷的棕色狐狸跳过懒狗。 日本語の文章もあります。",
    "def main(): return {'a': 1, \"b\": [2, 3]}  # <tag> </tag> 😀 👩‍💻",
    "user assistant system tool: hello, what is 7 plus 5? It is 12.",
] * 3
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]"]


def _byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer


def _metaspace() -> Tokenizer:
    draft = Tokenizer(models.BPE())
    draft.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    draft.train_from_iterator(LINES[:2] * 3, trainers.BpeTrainer(vocab_size=150, show_progress=False))
    trained = json.loads(draft.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *trained["vocab"]]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    merges = [tuple(merge) for merge in trained["merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>", AddedToken("<|end|>", rstrip=True, normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _wordpiece() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def _write(folder: Path, tokenizer: Tokenizer, config: dict) -> Path:
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "pad_token": {"__type": "AddedToken", "content": "<|endoftext|>"},
    }
    return _write(tmp_path_factory.mktemp("byte-level"), _byte_level(), config)


@pytest.fixture(scope="session")
def metaspace_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("metaspace"), _metaspace(), {"bos_token": "<s>", "eos_token": "</s>"})


@pytest.fixture(scope="session")
def wordpiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _write(tmp_path_factory.mktemp("wordpiece"), _wordpiece(), {})


@pytest.fixture(scope="session")
def byte_level(byte_level_folder: Path) -> TextTokenizer:
    return TextTokenizer(read_tokenizer_files(byte_level_folder))


@pytest.fixture(scope="session")
def metaspace(metaspace_folder: Path) -> TextTokenizer:
    return TextTokenizer(read_tokenizer_files(metaspace_folder))


@pytest.fixture(scope="session")
def wordpiece(wordpiece_folder: Path) -> TextTokenizer:
    return TextTokenizer(read_tokenizer_files(wordpiece_folder))


@pytest.fixture(scope="session")
def demo() -> TextTokenizer:
    return TextTokenizer(read_tokenizer_files(DEMO_MODEL))
