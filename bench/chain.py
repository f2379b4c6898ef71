"""The chain without a model: what the processes around it cost, and what they add to every token.

Real services by their own command lines, the demo model's tokenizer, and the fake worker, which stamps
the time at which it sends each step's result. Its tokens tell their step, so the delay of every token is
known exactly: arrival at the client minus stamp. README.md says more.
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import gc
import json
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))

import quire.shared
from bench.chain_loads import HttpLoad, LinkLoad, Stream
from bench.client import run_on_loop
from bench.deployment import Deployment
from bench.recording import medians, record, spread, table, write

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
"""One token each: the n-th letter is the text of step s when s % 62 == n, and a text's length is its tokens."""
TARGETS = {"flat 64": 100_000.0, "paced 1": 1.2, "paced 64": 2.5, "paced 256": 5.0}
_STAMP = struct.Struct("<qq")
_WORD = "count "


def letters() -> list[str]:
    """Flags that make the fake worker draw the alphabet's tokens."""
    path = Path(quire.shared.__path__[0]) / "demo_model" / "tokenizer.json"
    vocabulary = json.loads(path.read_text())["model"]["vocab"]
    return [part for letter in ALPHABET for part in ("--token-id", str(vocabulary[letter]))]


def read_stamps(path: Path) -> list[tuple[float, int]]:
    """(seconds of CLOCK_MONOTONIC, step), in order."""
    return sorted(
        (nanoseconds / 1e9, step) for step, nanoseconds in _STAMP.iter_unpack(path.read_bytes()) if nanoseconds
    )


def delays(stream: Stream, stamps: Sequence[tuple[float, int]], begin: float, end: float) -> list[float]:
    """Seconds from the result's stamp to the arrival, of every token that came between `begin` and `end`.

    The step of a token is the newest one before its arrival that has its letter.
    """
    sent_at = {step: at for at, step in stamps}
    found = []
    for arrival, text in zip(stream.arrivals, stream.texts, strict=True):
        if not begin <= arrival <= end:
            continue
        newest = stamps[bisect.bisect_right(stamps, (arrival, sys.maxsize)) - 1][1]
        for letter in text:
            step = newest - (newest - ALPHABET.index(letter)) % len(ALPHABET)
            if step in sent_at:
                found.append(arrival - sent_at[step])
    return found


class Chain:
    """One deployment and the load on it."""

    def __init__(self, deployment: Deployment, load: HttpLoad | LinkLoad) -> None:
        self._deployment = deployment
        self._load = load

    async def streams(self, count: int, output_len: int, num_words: int = 32) -> tuple[list[Stream], dict[str, Any]]:
        """`count` streams at once, and CPU microseconds a token by process. Raises RuntimeError if one is not whole."""
        prompts = [f"{number} {_WORD * num_words}" for number in range(count)]
        gc.collect()
        gc.freeze()
        gc.disable()
        before = self._deployment.cpu_seconds()
        done = await asyncio.gather(*(self._load.stream(prompt, output_len) for prompt in prompts))
        after = self._deployment.cpu_seconds()
        gc.enable()
        self._deployment.check()
        for stream in done:
            self._load.decode(stream)
            length = sum(map(len, stream.texts))
            if stream.error or length != output_len:
                raise RuntimeError(f"a stream has {length} of {output_len} tokens: {stream.error or 'no error'}")
        cpu = {name: (after[name] - before[name]) * 1e6 / (count * output_len) for name in after}
        return done, cpu

    async def flat(self, count: int, output_len: int) -> dict[str, Any]:
        """As fast as it goes."""
        done, cpu = await self.streams(count, output_len)
        seconds = max(stream.ended for stream in done) - min(stream.sent for stream in done)
        begin = max(stream.arrivals[0] for stream in done)
        end = min(stream.ended for stream in done)
        frames = sum(len(stream.arrivals) for stream in done)
        steady = sum(
            len(text)
            for stream in done
            for at, text in zip(stream.arrivals, stream.texts, strict=True)
            if begin < at <= end
        )
        return {
            "tokens_per_second": count * output_len / seconds,
            "steady_tokens_per_second": steady / (end - begin) if end > begin else 0.0,
            "tokens_per_frame": count * output_len / frames,
            "cpu_us_per_token": cpu,
        }

    async def paced(self, count: int, output_len: int) -> dict[str, Any]:
        """Delay of every token that came while all streams were running."""
        done, cpu = await self.streams(count, output_len)
        stamps = read_stamps(self._deployment.path / "stamps")
        begin = max(stream.arrivals[0] for stream in done)
        end = min(stream.ended for stream in done)
        added = [seconds * 1e3 for stream in done for seconds in delays(stream, stamps, begin, end)]
        return {"added_ms": spread(added), "tokens": len(added), "cpu_us_per_token": cpu}

    async def first_token(self, num_words: int, count: int) -> dict[str, Any]:
        """Time to first token of one request after another, worker answering at once."""
        times = []
        for _ in range(count):
            (stream,), _ = await self.streams(1, 2, num_words)
            times.append((stream.arrivals[0] - stream.sent) * 1e3)
        return {"ttft_ms": spread(times)}


async def measure(options: argparse.Namespace, step_ms: float, is_flat: bool) -> dict[str, Any]:
    """All figures of one deployment: flat out and first tokens, or paced."""
    flags = ["--num-blocks", "32768", "--step-ms", str(step_ms), *letters()]
    streams = [int(part) for part in options.streams.split(",")]
    engine = ["--max-num-seqs", "256", "--max-num-batched-tokens", "16384"]
    frontends = 0 if options.no_http else options.frontends
    found: dict[str, Any] = {}
    if not is_flat:
        flags += ["--token-by-step", "--stamps", "stamps"]
    with Deployment(frontends, options.tokenizers, engine, flags) as deployment:
        load = LinkLoad(deployment) if options.no_http else HttpLoad(deployment)
        try:
            await load.ready()
            chain = Chain(deployment, load)
            await chain.streams(max(streams), 20)
            for count in streams:
                if is_flat:
                    found[f"flat {count}"] = await chain.flat(count, options.flat_tokens)
                else:
                    length = max(10, round(options.seconds * 1000 / step_ms))
                    found[f"paced {count}"] = await chain.paced(count, length)
            if is_flat:
                for num_words in (32, 2000):
                    found[f"first token, {num_words} words"] = await chain.first_token(num_words, options.first_tokens)
        finally:
            load.close()
    return found


async def all_rounds(options: argparse.Namespace) -> list[dict[str, Any]]:
    rounds = []
    for number in range(options.rounds):
        one = await measure(options, 0.0, is_flat=True)
        one |= await measure(options, options.step_ms, is_flat=False)
        rounds.append(one)
        print(f"round {number + 1} of {options.rounds} done", file=sys.stderr, flush=True)
    return rounds


def report(result: dict[str, Any]) -> str:
    """Two tables: figures beside targets, and who used the CPU."""
    rows, cpu_rows = [], []
    names = list(next(iter(result.values()))["cpu_us_per_token"])
    for name, found in result.items():
        if "tokens_per_second" in found:
            per_frame = f"{found['tokens_per_frame']:.2f} tokens a frame"
            rows.append((name, "tokens/s", found["tokens_per_second"], "", "", TARGETS.get(name, ""), per_frame))
        else:
            times = found.get("added_ms") or found["ttft_ms"]
            what = "added ms" if "added_ms" in found else "ms"
            rows.append((name, what, times["p50"], times["p90"], times["p99"], TARGETS.get(name, ""), ""))
        if "cpu_us_per_token" in found:
            cpu_rows.append((name, *(found["cpu_us_per_token"][one] for one in names)))
    figures = table(("", "", "p50 or rate", "p90", "p99", "target", ""), rows)
    return figures + "\n\n" + table(("CPU us per token", *names), cpu_rows)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="chain.py", description="The chain of services without a model.")
    add = made.add_argument
    add("--streams", default="1,64,256", help="streams at once, of each scenario (default: %(default)s)")
    add("--frontends", type=int, default=1, help="(default: %(default)s)")
    add("--tokenizers", type=int, default=1, help="(default: %(default)s)")
    add("--no-http", action="store_true", help="without frontends: a client of the tokenizers' links")
    add("--step-ms", type=float, default=20.0, help="of the paced scenarios (default: %(default)s)")
    add("--seconds", type=float, default=6.0, help="length of a paced scenario (default: %(default)s)")
    add("--flat-tokens", type=int, default=2000, help="of each stream flat out (default: %(default)s)")
    add("--first-tokens", type=int, default=40, help="requests for the time to first token (default: %(default)s)")
    add("--nice", type=int, default=0, help="of all processes and the client; below 0 needs the right to")
    add("--rounds", type=int, default=1, help="of which medians are reported (default: %(default)s)")
    add("--out", help="JSON file; a bare name goes to bench/results/")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    if options.nice:
        os.nice(options.nice)
    try:
        rounds = run_on_loop(all_rounds(options))
    except RuntimeError as error:
        print(f"quire bench: {error}", file=sys.stderr)
        return 1
    middle = medians(rounds)
    print(report(middle))
    if options.out:
        settings = {**vars(options), "targets": TARGETS}
        print(f"\nwritten to {write(record('chain', {'medians': middle, 'rounds': rounds}, settings), options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
