"""The HTTP sweep: so many streams at once against a server of its own."""

from __future__ import annotations

import shlex
import sys

from bench.peers.server import Server

from .commands import recorded
from .setting import Outcome, Setting

HEADER = ["server", "streams", "tokens/s", "TTFT p50 ms", "ITL p50 ms", "ITL p99 ms", "errors"]


def run(setting: Setting) -> Outcome:
    outcome = Outcome(HEADER, [])
    for model in setting.sizes.models[:1]:
        words = [sys.executable, "-m", "quire", "serve", *setting.serve_flags(model), *quire_flags(setting)]
        sweep(setting, model, words, setting.sizes.streams, outcome)
    return outcome


def quire_flags(setting: Setting) -> list[str]:
    most = max(setting.sizes.streams)
    flags = ["--port", "{port}", "--device", setting.device, "--kv-cache-memory", setting.sizes.kv_cache_memory]
    return [*flags, "--max-num-seqs", str(most), "--max-num-batched-tokens", "256" if setting.is_tiny else "8192"]


def sweep(setting: Setting, label: str, words: list[str], streams: tuple[int, ...], outcome: Outcome) -> None:
    """Rows of one server, started by `words` (with {port} among them), added to `outcome`."""
    sizes = setting.sizes
    server = Server(label.replace("/", "-").replace(" ", "-"), shlex.join(words), setting.folder, 150.0)
    try:
        server.start()
        for number in streams:
            flags = ["--concurrency", str(number), "--num-requests", str(max(2, number)), "--rounds", "1"]
            flags += ["--input-len", str(sizes.input_len), "--output-len", str(sizes.output_len)]
            flags += ["--warmup", str(min(4, number)), "--url", server.url]
            out = setting.folder / f"serving-{number}.json"
            found = recorded(["bench/serving.py", *flags], out, 90)["medians"]
            times = (found["ttft_ms"]["p50"], found["itl_ms"]["p50"], found["itl_ms"]["p99"])
            outcome.rows.append([label, number, found["output_tokens_per_second"], *times, found["errors"]])
    finally:
        server.end()
