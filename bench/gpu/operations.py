"""The kernel table: each operation of a model beside what the ceilings allow. bench/kernels.py has the operations."""

from __future__ import annotations

import json
from collections.abc import Iterator

import torch

from bench import kernels as table_of

from . import sampler
from .setting import ROOT, Outcome, Setting
from .timing import release, seconds


def run(setting: Setting) -> Outcome:
    sizes, rows, notes = setting.sizes, [], []
    # In products with their additions.
    machine = table_of.Machine(setting.bytes_per_second or 1e12, (setting.flops or 1e14) / 2)
    with torch.device(setting.device), torch.inference_mode(), table_of.cold(sizes.cold_bytes):
        for name, of in _dimensions(setting):
            for operation in _operations(setting, machine, of):
                try:
                    taken = seconds(operation.prepare(), setting.device) * 1e3
                except Exception as error:
                    notes.append(f"{operation.name} {operation.shape}: {type(error).__name__}: {str(error)[:200]}")
                else:
                    share = 100 * operation.floor_ms / taken
                    rows.append([f"{name} {operation.name}", operation.shape, taken * 1e3, share])
                release(setting.device)
    return Outcome(["operation", "shape", "us", "% of the ceiling"], rows, {}, notes)


def _dimensions(setting: Setting) -> Iterator[tuple[str, table_of.Dimensions]]:
    if setting.is_tiny:
        yield "tiny", table_of.Dimensions(64, 4, 2, 16, 96, 500)
        return
    for name in ("qwen3-0.6b", "llama-3.1-8b"):
        raw = json.loads((ROOT / "bench" / "dimensions" / name / "config.json").read_text())
        heads = raw["num_attention_heads"]
        head_dim = raw.get("head_dim") or raw["hidden_size"] // heads
        sizes = (raw["hidden_size"], heads, raw["num_key_value_heads"], head_dim, raw["intermediate_size"])
        yield name, table_of.Dimensions(*sizes, raw["vocab_size"])


def _operations(setting: Setting, machine: table_of.Machine, of: table_of.Dimensions) -> Iterator[table_of.Operation]:
    sizes = setting.sizes
    for rows in (*sizes.rows, sizes.prefill):
        yield from table_of.elementwise(machine, of, rows)
        yield table_of.rope(machine, of, rows)
    for rows in sizes.rows:
        for context in sizes.contexts:
            yield table_of.attention(machine, of, rows, 1, context)
        yield from sampler.operations(machine, of.vocab, rows, sizes.cold_bytes)
        yield table_of.linear(machine, "gate and up", rows, 2 * of.intermediate, of.hidden)
        yield table_of.linear(machine, "head", rows, of.vocab, of.hidden)
    yield table_of.attention(machine, of, 1, sizes.prefill, sizes.prefill)
    yield table_of.linear(machine, "gate and up", sizes.prefill, 2 * of.intermediate, of.hidden)
