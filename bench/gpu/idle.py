"""How much of a steady decode step the device stands idle: 1 - the sum of its kernels over the wall's time."""

from __future__ import annotations

import random
import time
from typing import Any

import torch

from .decode import kv_memory
from .loop import Loop
from .setting import Outcome, Setting
from .timing import release


def run(setting: Setting) -> Outcome:
    """Of the smallest model, where idling shows most."""
    sizes, model = setting.sizes, setting.sizes.models[0]
    outcome = Outcome(["model", "batch", "idle %", "kernels a step", "ms a step"], [])
    length = sizes.decode_context + sizes.decode_steps + 8
    loop = Loop(
        [*setting.model_flags(model), "--device", setting.device],
        rows=max(sizes.batches),
        budget=min(8192, max(sizes.batches) * length),
        max_model_len=length,
        kv_cache_memory=kv_memory(setting, max(sizes.batches) * (length + 16), model),
    )
    chance = random.Random(2)
    prompts = [
        [chance.randrange(300, min(loop.facts.vocab_size, 2000)) for _ in range(sizes.decode_context)]
        for _ in range(max(sizes.batches))
    ]
    for batch in sorted(sizes.batches, reverse=True):
        window = _Window(setting.device, first=2, last=max(3, sizes.decode_steps - 3))
        loop.run(prompts[:batch], sizes.decode_steps, window.at)
        window.close()
        outcome.rows.append([model, batch, *window.found()])
    del loop
    release(setting.device)
    return outcome


class _Window:
    """Profiles from one decode step to another."""

    def __init__(self, device: str, first: int, last: int) -> None:
        activity = torch.profiler.ProfilerActivity
        self._profiler: Any = torch.profiler.profile(activities=[activity.CUDA if device == "cuda" else activity.CPU])
        self._is_cuda = device == "cuda"
        self._first, self._last = first, last
        self._began = self._seconds = 0.0

    def at(self, number: int) -> None:
        if number >= self._first and not self._began:
            self._profiler.start()
            self._began, self._first = time.perf_counter(), number
        elif number >= self._last and self._began and not self._seconds:
            self._last = number
            self.close()

    def close(self) -> None:
        """Where it is open still: as many steps as were intended were not made."""
        if self._began and not self._seconds:
            self._seconds = time.perf_counter() - self._began
            self._profiler.stop()

    def found(self) -> tuple[float, float, float]:
        """Idle share in percent, kernels a step, milliseconds a step."""
        events = self._profiler.key_averages()
        field = "self_device_time_total" if self._is_cuda else "self_cpu_time_total"
        busy = sum(getattr(event, field) for event in events) / 1e6
        steps = max(1, self._last - self._first)
        count = sum(event.count for event in events if getattr(event, field) > 0)
        return 100 * (1 - busy / self._seconds), count / steps, self._seconds / steps * 1e3
