"""Checkpoint folders: what is read from them, in every spelling, and the sentence for each thing that can be wrong."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from checkpoints import FAMILIES, VARIANTS, make_checkpoint

from quire.shared import model_files
from quire.shared.model_config import SUPPORTED_ARCHITECTURES
from quire.shared.model_files import ModelFilesError

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
}


def read(folder: Path, fields: dict[str, Any]) -> model_files.ModelConfig:
    (folder / "config.json").write_text(json.dumps(fields))
    return model_files.read_model_config(folder)


def safetensors(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_no_name_is_the_demo_model():
    assert model_files.find_model(None) == model_files.DEMO_MODEL
    model_files.check(None)


@pytest.mark.parametrize("family", FAMILIES | VARIANTS)
def test_every_family_is_read_as_transformers_reads_it(family, tmp_path):
    transformers = pytest.importorskip("transformers")
    folder = make_checkpoint(family, tmp_path)
    ours, theirs = model_files.read_model_config(folder), transformers.AutoConfig.from_pretrained(folder)
    model_files.check(str(folder))
    for name in (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "intermediate_size", "max_position_embeddings", "tie_word_embeddings", "rms_norm_eps", "hidden_act",
        "model_type",
    ):  # fmt: skip
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.rope_scaling.rope_type == theirs.rope_parameters["rope_type"]
    assert ours.dtype == "float32"
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert ours.head_dim == head_dim


def test_the_registry_and_the_supported_architectures_are_the_same():
    from quire.services.worker.models import REGISTRY

    assert tuple(REGISTRY) == SUPPORTED_ARCHITECTURES


def test_what_a_llama_leaves_out_is_filled_in(tmp_path):
    config = read(tmp_path, LLAMA)
    assert (config.num_key_value_heads, config.head_dim, config.rope_theta) == (4, 16, 10000.0)
    assert config.layer_windows == (None, None)
    assert config.dtype is None
    assert config.eos_token_ids == []


def test_old_and_new_spellings_of_rope_are_the_same(tmp_path):
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    old = {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **scaling}, "torch_dtype": "bfloat16"}
    new = {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **scaling}, "dtype": "bfloat16"}
    older = {"rope_theta": 5e5, "rope_scaling": {"type": "llama3", **scaling}, "torch_dtype": "torch.bfloat16"}
    found = [read(tmp_path, {**LLAMA, **fields}) for fields in (old, new, older)]
    assert found[0] == found[1] == found[2]
    assert found[0].rope_scaling.factor == 8.0
    assert (found[0].rope_theta, found[0].dtype) == (5e5, "bfloat16")


def test_yarn_reaches_beyond_the_trained_length(tmp_path):
    fields = {"max_position_embeddings": 32768, "rope_scaling": {"type": "yarn", "factor": 4.0}}
    config = read(tmp_path, {**LLAMA, **fields})
    assert config.rope_scaling.original_max_position_embeddings == 32768
    assert config.max_model_len == 131072
    dynamic = {"max_position_embeddings": 4096, "rope_scaling": {"type": "dynamic", "factor": 4.0}}
    assert read(tmp_path, {**LLAMA, **dynamic}).max_model_len == 4096


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 16}, (16, 16)),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, (None, None)),
        ({"architectures": ["MistralForCausalLM"]}, (4096, 4096)),
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 16}, (None, None)),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "sliding_window": 16,
                "use_sliding_window": True,
                "max_window_layers": 1,
            },
            (None, 16),
        ),
        (
            {
                "architectures": ["Qwen3ForCausalLM"],
                "sliding_window": 16,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (16, None),
        ),
        ({"sliding_window": 16}, (None, None)),
    ],
)
def test_each_layer_has_its_window(tmp_path, fields, windows):
    assert read(tmp_path, {**LLAMA, "num_key_value_heads": 2, **fields}).layer_windows == windows


def test_ends_are_merged_from_both_files(tmp_path):
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [9, 5], "temperature": 0.6, "top_k": 20}')
    read(tmp_path, {**LLAMA, "eos_token_id": [5, 7, 100, -1]})
    assert model_files.eos_token_ids(tmp_path) == [9, 5, 7]
    generation = model_files.read_generation_config(tmp_path)
    assert (generation.temperature, generation.top_k, generation.top_p) == (0.6, 20, None)
    (tmp_path / "generation_config.json").unlink()
    assert model_files.eos_token_ids(tmp_path) == [5, 7]
    assert model_files.read_generation_config(tmp_path) == model_files.GenerationConfig()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "GPT2LMHeadModel .* is not supported; supported are LlamaForCausalLM, ",
        ),
        ({"architectures": None}, "is not supported"),
        ({"vocab_size": None}, "has no vocab_size"),
        ({"hidden_size": 0}, "hidden_size is 0"),
        ({"hidden_size": "64"}, "cannot be read"),
        ({"num_key_value_heads": 3}, "4 attention heads are no multiple of 3"),
        ({"head_dim": 15}, "head_dim 15 is odd"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"torch_dtype": "float8_e4m3fn"}, "dtype 'float8_e4m3fn'"),
        ({"rope_scaling": {"type": "longrope"}}, "rope_type 'longrope'"),
        ({"rope_scaling": {"type": "linear"}}, "linear has no factor"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized checkpoints \(gptq\)"),
    ],
)
def test_a_config_that_cannot_be_served_is_refused(tmp_path, fields, said):
    with pytest.raises(ModelFilesError, match=said):
        read(tmp_path, {**LLAMA, **fields})


def test_a_config_that_is_no_json_is_refused(tmp_path):
    for text in ("{", "[1]", "{" * 100_000, "\xff"):
        (tmp_path / "config.json").write_text(text, encoding="latin-1")
        with pytest.raises(ModelFilesError, match="cannot be read"):
            model_files.read_model_config(tmp_path)


def test_folders_that_are_none_are_refused(tmp_path):
    for name, said in (
        (str(tmp_path / "nowhere"), "does not exist"),
        ("./nowhere", "does not exist"),
        (str(tmp_path), "has no config.json"),
        (__file__, "is a file"),
    ):
        with pytest.raises(ModelFilesError, match=said):
            model_files.check(name)


def test_a_hub_id_is_not_looked_up_by_the_check():
    model_files.check("somebody/some-model-1.5B")


def test_an_unreachable_hub_is_one_sentence(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")
    from huggingface_hub.errors import LocalEntryNotFoundError

    def unreachable(*_: Any, **__: Any) -> str:
        raise LocalEntryNotFoundError("line one\nline two")

    monkeypatch.setattr(hub, "hf_hub_download", unreachable)
    with pytest.raises(ModelFilesError, match="somebody/model is no folder here, and .* cannot be reached$"):
        model_files.find_model("somebody/model")


@pytest.fixture
def sharded(tmp_path) -> Path:
    return make_checkpoint("qwen2", tmp_path / "model", is_sharded=True)


def test_shards_are_found_by_their_index(sharded):
    entries = model_files.read_weight_entries(sharded)
    assert len({entry.file for entry in entries.values()}) > 2
    assert entries["model.embed_tokens.weight"].shape == (384, 64)
    assert entries["model.embed_tokens.weight"].dtype == "F32"


def test_missing_shards_are_named(sharded):
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    first.unlink()
    second.unlink()
    with pytest.raises(ModelFilesError, match=f"lacks 2 of its .* weight files: {first.name}, {second.name}"):
        model_files.check(str(sharded))


def test_an_index_may_not_leave_its_folder(sharded):
    (sharded / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../other.safetensors"}}')
    with pytest.raises(ModelFilesError, match="outside its folder"):
        model_files.check(str(sharded))


def test_a_file_that_is_cut_off_is_refused(sharded):
    last = sorted(sharded.glob("*.safetensors"))[-1]
    whole = last.read_bytes()
    for length in (len(whole) - 1, 40, 8, 3, 0):
        last.write_bytes(whole[:length])
        with pytest.raises(ModelFilesError, match=r"cut off|cannot be read"):
            model_files.check(str(sharded))


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]}, "do not fit its shape"),
        ({"dtype": "F32", "shape": [2, 2], "data_offsets": [4, 20]}, "cut off"),
        ({"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}, "do not fit its shape"),
        ({"dtype": "F32", "shape": [2, 2], "data_offsets": [-16, 0]}, "do not fit its shape"),
        ({"dtype": "F3", "shape": [2, 2], "data_offsets": [0, 16]}, "unknown type F3"),
        ({"dtype": "F32", "shape": [2, 2]}, "cannot be read"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, entry, said):
    shutil.copy(model_files.DEMO_MODEL / "config.json", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(safetensors({"a": entry}, bytes(16)))
    with pytest.raises(ModelFilesError, match=said):
        model_files.check(str(tmp_path))


def test_pickled_weights_are_refused(tmp_path):
    shutil.copy(model_files.DEMO_MODEL / "config.json", tmp_path)
    with pytest.raises(ModelFilesError, match="has no weights"):
        model_files.check(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelFilesError, match="pickled"):
        model_files.check(str(tmp_path))
