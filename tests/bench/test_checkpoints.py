"""Benchmark checkpoints: right sizes, the same every time, and fit to be loaded by others' tools."""

from __future__ import annotations

import hashlib
import json
import math
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from bench.checkpoints import CHECKPOINTS, DIMENSIONS, SPECIALS, dimension_names, main, shapes, tokenizer
from quire.shared import model_files

TOKENIZER = Tokenizer.from_str(json.dumps(tokenizer()))


@pytest.mark.parametrize(("name", "millions"), [("A", 474), ("B", 101)])
def test_parameters_are_as_many_as_stated(name: str, millions: int) -> None:
    assert round(sum(math.prod(shape) for _, shape in shapes(CHECKPOINTS[name])) / 1e6) == millions


def test_two_writings_are_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        assert main(["tiny", str(tmp_path / folder)]) == 0
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "model.safetensors" in files and len(files) == 5
    for name in files:
        one, two = ((tmp_path / folder / name).read_bytes() for folder in ("one", "two"))
        assert hashlib.sha256(one).digest() == hashlib.sha256(two).digest()


def test_transformers_loads_the_checkpoint_and_its_tokenizer(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    main(["tiny", str(tmp_path)])
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    expected = dict(shapes(CHECKPOINTS["tiny"]))
    assert {name: tuple(tensor.shape) for name, tensor in model.named_parameters()} == expected
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded.apply_chat_template([{"role": "user", "content": "one two"}], add_generation_prompt=True)["input_ids"]
    assert loaded.decode(ids) == "<|im_start|>user\none two<|im_end|>\n<|im_start|>assistant\n"


def test_vocabulary_is_full_and_its_words_are_single_tokens() -> None:
    assert TOKENIZER.get_vocab_size() == 32_768
    assert len(TOKENIZER.encode(" the cat ate two").ids) == 4
    assert [TOKENIZER.token_to_id(special) for special in SPECIALS] == [0, 1, 2]


def test_of_published_dimensions_no_weights_are_written(tmp_path: Path) -> None:
    assert main(["qwen3-0.6b", str(tmp_path)]) == 0
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json"] * 4
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size() == 151_936


@pytest.mark.parametrize("name", dimension_names())
def test_transformers_reads_the_dimensions_as_we_do(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.from_pretrained(DIMENSIONS / name)
    assert json.loads((DIMENSIONS / name / "config.json").read_text())["architectures"] == theirs.architectures
    if theirs.model_type == "qwen3_moe":
        with pytest.raises(model_files.ModelFilesError, match=r"architecture Qwen3MoeForCausalLM .* is not supported"):
            model_files.read_model_config(DIMENSIONS / name)
        return
    ours = model_files.read_model_config(DIMENSIONS / name)
    fields = (
        "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads head_dim intermediate_size"
        " max_position_embeddings rms_norm_eps hidden_act tie_word_embeddings attention_bias"
    )
    for field in fields.split():
        assert getattr(ours, field) == getattr(theirs, field), field
    assert (ours.rope_theta, ours.rope_scaling.rope_type) == (
        theirs.rope_parameters["rope_theta"],
        theirs.rope_parameters["rope_type"],
    )


@given(st.text())
@settings(max_examples=200, deadline=None)
def test_text_survives_encoding(text: str) -> None:
    normal = unicodedata.normalize("NFC", text)
    assert TOKENIZER.decode(TOKENIZER.encode(normal).ids, skip_special_tokens=False) == normal
