"""The decode sweep with weights, and KV cache, of eight bits: fp8 on a GPU, int8 on a CPU."""

from __future__ import annotations

from quire.shared.config import EngineConfig, WorkerConfig
from quire.shared.flags import fields

from .decode import HEADER, sweep
from .setting import Outcome, Setting


def run(setting: Setting) -> Outcome:
    outcome = Outcome(HEADER, [])
    kind = "fp8" if setting.device == "cuda" else "int8"
    known = fields(WorkerConfig)
    if kind not in known["quantization"].flag.choices:
        outcome.notes.append(f"this version has no --quantization {kind}")
        return outcome
    batches = (setting.sizes.batches[0], setting.sizes.batches[-2], setting.sizes.batches[-1])
    for model in setting.sizes.models:
        sweep(setting, model, sorted(set(batches)), ["--quantization", kind], f"{model} {kind}", outcome)
    cache = known.get("kv_cache_dtype") or fields(EngineConfig).get("kv_cache_dtype")
    if setting.device == "cuda" and cache is not None and "kv_cache_dtype" in known:
        both = ["--quantization", kind, "--kv-cache-dtype", "fp8"]
        for model in setting.sizes.models:
            sweep(setting, model, sorted(set(batches)), both, f"{model} {kind}, KV too", outcome)
    return outcome
