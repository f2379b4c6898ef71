"""transformers' continuous batching and Quire on the same checkpoint and prompts, one after the other."""

from __future__ import annotations

import sys

from bench import checkpoints

from .http_sweep import HEADER, quire_flags, sweep
from .setting import Outcome, Setting


def run(setting: Setting) -> Outcome:
    outcome = Outcome(HEADER, [])
    folder = setting.folder / "checkpoint"
    if not (folder / "model.safetensors").exists():
        checkpoints.write(checkpoints.CHECKPOINTS[setting.sizes.checkpoint], folder)
    streams = setting.sizes.streams[-1:] if setting.is_tiny else setting.sizes.streams[1:3]
    python = [sys.executable, "-m", "quire", "serve", str(folder), *quire_flags(setting)]
    sweep(setting, "quire", python, streams, outcome)
    peer = [sys.executable, "bench/peers/transformers_server.py", str(folder), "--port", "{port}"]
    blocks, budget = ("16", "256") if setting.is_tiny else ("512", "4096")
    peer += ["--device", setting.device, "--num-blocks", blocks, "--max-batch-tokens", budget]
    try:
        sweep(setting, "transformers", peer, streams, outcome)
    except RuntimeError as error:
        outcome.notes.append(f"transformers: {error}")
    return outcome
