"""The decode sweep: milliseconds a step and tokens a second by batch size, against reading weights and KV cache."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from bench.recording import percentile
from quire.shared import model_files

from .loop import Loop
from .setting import ROOT, Outcome, Setting
from .timing import release

HEADER = ["model", "batch", "ms a step", "p90", "tokens/s", "% of the memory's"]


def run(setting: Setting) -> Outcome:
    outcome = Outcome(HEADER, [])
    for model in setting.sizes.models:
        sweep(setting, model, setting.sizes.batches, [], model, outcome)
    return outcome


def sweep(
    setting: Setting, model: str, batches: Sequence[int], flags: Sequence[str], label: str, outcome: Outcome
) -> None:
    """Rows for one model, added to `outcome`. The largest batch comes first: what it has computed is found again."""
    sizes = setting.sizes
    most = max(batches)
    length = sizes.decode_context + sizes.decode_steps + 8
    loop = Loop(
        [*setting.model_flags(model), "--device", setting.device, *flags],
        rows=most,
        budget=min(8192, most * length),
        max_model_len=length,
        kv_cache_memory=kv_memory(setting, most * (length + 16), model),
    )
    chance = random.Random(0)
    vocab_size = min(loop.facts.vocab_size, 2000)
    prompts = [[chance.randrange(300, vocab_size) for _ in range(sizes.decode_context)] for _ in range(most)]
    parts = dict(loop.facts.memory_plan)
    per_token = parts["kv cache"] / (loop.facts.num_blocks * 16)
    for batch in sorted(batches, reverse=True):
        _, times = loop.run(prompts[:batch], sizes.decode_steps)
        step = percentile(times["decode"], 50)
        num_bytes = loop.weight_bytes + batch * (sizes.decode_context + sizes.decode_steps / 2) * per_token
        share = 100 * num_bytes / setting.bytes_per_second / step if setting.bytes_per_second else math.nan
        p90 = percentile(times["decode"], 90) * 1e3
        outcome.rows.append([label, batch, step * 1e3, p90, batch / step, share])
    outcome.notes.append(f"{label}: {loop.facts.backend}, {loop.facts.dtype}, context {sizes.decode_context}")
    del loop
    release(setting.device)


def kv_memory(setting: Setting, num_tokens: int, model: str) -> str:
    """Bytes of KV cache for so many tokens, in 16 bits a number."""
    if setting.is_tiny:
        return setting.sizes.kv_cache_memory
    config = model_files.read_model_config(ROOT / "bench" / "dimensions" / model)
    return str(4 * num_tokens * config.num_hidden_layers * config.num_key_value_heads * config.head_dim)
