"""A model with its weights, as a worker's flags want it: placed, loaded and packed.

Made once at start, before any configuration comes. Knows no plans and no KV cache.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from msgspec import Struct

from quire import kernels
from quire.shared import model_files
from quire.shared.model_config import ModelConfig
from quire.shared.sharding import part_of

from .device import choose_placement, choose_threads
from .dummy_weights import dummy_entries, fill_with_dummies
from .layers.placement import Placement
from .models import build_model
from .models.decoder import Decoder
from .packing import Packing, choose_linear
from .tensor_parallel import RankGroup
from .weight_cuts import WeightCuts
from .weights import load_weights


class LoadedModel(Struct, frozen=True):
    config: ModelConfig
    """This rank's part."""
    eos_token_ids: list[int]
    placement: Placement
    model: Decoder
    linear_choice: kernels.LinearChoice
    weight_bytes: int
    num_threads: int


def load_model(
    folder: Path,
    device: str,
    dtype: str,
    threads: int | None,
    on_progress: Callable[[int, int], None],
    linear: str,
    quantization: str,
    group: RankGroup,
    load_format: str,
    on_built: Callable[[Decoder, Placement, bool], None] = lambda model, placement, is_fp8: None,
) -> LoadedModel:
    """See WorkerConfig for the settings. Raises ModelFilesError and DeviceError.

    on_built is called before the weights are read, with the model, where it is, and whether its activations are fp8.
    """
    whole = model_files.read_model_config(folder)
    config = part_of(whole, group.size)
    eos_token_ids = model_files.eos_token_ids(folder)
    is_dummy = load_format == "dummy"
    entries = dummy_entries(whole) if is_dummy else model_files.read_weight_entries(folder)
    num_threads = threads or choose_threads(sum(entry.size_bytes for entry in entries.values()), group.size)
    torch.set_num_threads(num_threads)
    # float32 is float32 on a GPU too, whatever the environment says (TORCH_ALLOW_TF32_CUBLAS_OVERRIDE).
    torch.set_float32_matmul_precision("highest")
    placement = choose_placement(device, dtype, config, entries, group)
    with torch.inference_mode():
        model = build_model(config, placement)
        targets = model.targets()
        choice = choose_linear(model, placement, linear, quantization)
        if choice.takes_fp8:
            model.quantize_activations()
        on_built(model, placement, choice.takes_fp8)
        packing = Packing(model, targets, choice, placement)
        if is_dummy:
            fill_with_dummies(targets, on_progress, packing.filled, packing.settle)
        else:
            cuts, is_tied = WeightCuts(whole, group), config.tie_word_embeddings
            wanted = cuts.rows(entries)
            load_weights(wanted, targets, is_tied, on_progress, packing.filled, cuts.columns, packing.settle)
    if placement.device.type == "cuda":
        # What loading took beside the weights is no longer held back from the KV cache, or from other processes.
        torch.cuda.synchronize(placement.device)
        torch.cuda.empty_cache()
    return LoadedModel(config, eos_token_ids, placement, model, choice, packing.weight_bytes(), num_threads)
