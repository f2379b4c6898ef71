"""Loading weights: what is missing, left over, or of another shape is named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[2]))

from checkpoints import make_checkpoint

from quire.services.worker.device import choose_placement
from quire.services.worker.layers.placement import Placement
from quire.services.worker.models import build_model
from quire.services.worker.weights import load_weights
from quire.shared import model_files
from quire.shared.model_errors import ModelFilesError

CPU = Placement(torch.device("cpu"), torch.float32)


def load(folder: Path, on_progress=lambda done, total: None):
    config = model_files.read_model_config(folder)
    model = build_model(config, CPU)
    entries = model_files.read_weight_entries(folder)
    load_weights(entries, model.targets(), config.tie_word_embeddings, on_progress)
    return model


@pytest.fixture
def folder(tmp_path) -> Path:
    return make_checkpoint("qwen3", tmp_path)


def change(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    weights: dict[str, torch.Tensor | None] = {**load_file(folder / "model.safetensors"), **changes}
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, folder / "model.safetensors")


def test_every_target_gets_its_tensor(folder):
    weights = load_file(folder / "model.safetensors")
    model = load(folder)
    for name, target in model.targets().items():
        assert torch.equal(target, weights[name]), name
    assert torch.equal(model.layers[1].attention.qkv.weight[:128], weights["model.layers.1.self_attn.q_proj.weight"])


def test_progress_counts_bytes_up_to_all(folder):
    seen: list[tuple[int, int]] = []
    load(folder, lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert (
        seen[-1][0] == seen[-1][1] == sum(tensor.nbytes for tensor in load_file(folder / "model.safetensors").values())
    )


def test_missing_weights_are_named(folder):
    change(folder, {"model.norm.weight": None})
    with pytest.raises(ModelFilesError, match=r"lacks weights: model\.norm\.weight$"):
        load(folder)


def test_weights_the_model_does_not_know_are_named(folder):
    change(folder, {f"model.layers.{layer}.extra.weight": torch.ones(1) for layer in range(5)})
    with pytest.raises(ModelFilesError, match=r"model\.layers\.0\.extra\.weight, .* and 2 more$"):
        load(folder)


def test_a_weight_of_another_shape_is_named(folder):
    change(folder, {"model.norm.weight": torch.ones(3)})
    with pytest.raises(ModelFilesError, match=r"model\.norm\.weight has shape \[3\]; the model's is \[64\]"):
        load(folder)


def test_a_weight_of_an_odd_type_is_named(folder):
    change(folder, {"model.norm.weight": torch.ones(64, dtype=torch.int8)})
    with pytest.raises(ModelFilesError, match=r"model\.norm\.weight has type I8"):
        load(folder)


def test_a_tied_head_and_old_frequencies_in_the_files_are_not_wanted(folder):
    weights = load_file(folder / "model.safetensors")
    extras = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    change(folder, {"lm_head.weight": weights["model.embed_tokens.weight"].clone(), **extras})
    load(folder)


@pytest.mark.parametrize(
    ("has_bfloat16", "checkpoint", "asked", "expected"),
    [
        (True, "bfloat16", "auto", torch.bfloat16),
        (False, "bfloat16", "auto", torch.float32),
        (True, "float16", "auto", torch.bfloat16),
        (False, "float16", "auto", torch.float32),
        (True, "float32", "auto", torch.float32),
        (False, "float32", "bfloat16", torch.bfloat16),
        (True, "bfloat16", "float32", torch.float32),
    ],
)
def test_the_cpu_computes_in_a_type_it_is_fast_with(tmp_path, monkeypatch, has_bfloat16, checkpoint, asked, expected):
    monkeypatch.setattr("quire.services.worker.device.has_native_bfloat16", lambda: has_bfloat16)
    folder = make_checkpoint("llama 2", tmp_path, dtype=checkpoint)
    monkeypatch.setattr("quire.services.worker.device._TINY_BYTES", 0)
    config, entries = model_files.read_model_config(folder), model_files.read_weight_entries(folder)
    assert choose_placement("cpu", asked, config, entries).dtype == expected


def test_a_tiny_model_is_computed_in_float32_unless_asked_otherwise(tmp_path, monkeypatch):
    monkeypatch.setattr("quire.services.worker.device.has_native_bfloat16", lambda: True)
    folder = make_checkpoint("llama 2", tmp_path, dtype="bfloat16")
    config, entries = model_files.read_model_config(folder), model_files.read_weight_entries(folder)
    assert choose_placement("cpu", "auto", config, entries).dtype == torch.float32
    assert choose_placement("cpu", "bfloat16", config, entries).dtype == torch.bfloat16
