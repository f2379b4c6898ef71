"""One long prompt in one step: milliseconds, tokens a second, and the share of the matrix units' ceiling."""

from __future__ import annotations

import math
import random

from quire.shared.model_config import ModelConfig

from .decode import kv_memory
from .loop import Loop
from .setting import Outcome, Setting
from .timing import release

_ROUNDS = 3


def run(setting: Setting) -> Outcome:
    outcome = Outcome(["model", "tokens", "ms", "tokens/s", "% of the products'"], [])
    for model in setting.sizes.models:
        _measure(setting, model, outcome)
    return outcome


def _measure(setting: Setting, model: str, outcome: Outcome) -> None:
    length, chance = setting.sizes.prefill, random.Random(1)
    loop = Loop(
        [*setting.model_flags(model), "--device", setting.device],
        rows=4,
        budget=length,
        max_model_len=length + 16,
        kv_cache_memory=kv_memory(setting, (_ROUNDS + 2) * (length + 64), model),
    )
    vocab_size = min(loop.facts.vocab_size, 2000)
    found = []
    for _ in range(_ROUNDS + 1):
        _, times = loop.run([[chance.randrange(300, vocab_size) for _ in range(length)]], 2)
        found.append(times["prefill"][0])
    taken = min(found[1:])
    share = 100 * _flops(loop.config, length) / setting.flops / taken if setting.flops else math.nan
    outcome.rows.append([model, length, taken * 1e3, length / taken, share])
    del loop
    release(setting.device)


def _flops(of: ModelConfig, length: int) -> float:
    """Of the linears of all layers and of causal attention; the head sees one token."""
    heads = of.num_attention_heads * of.head_dim
    kv_heads = of.num_key_value_heads * of.head_dim
    weights = of.hidden_size * (2 * heads + 2 * kv_heads + 3 * of.intermediate_size)
    return of.num_hidden_layers * (2 * length * weights + 2 * length**2 * heads)
