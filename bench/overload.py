"""A server beyond its capacity: goodput, what refusals cost, and what those who are admitted notice.

`python bench/overload.py [flags of quire serve]` serves a model, finds its peak with a full door, then sends
several times as much (open loop), then prompts of 8 MiB beside running streams. Prints each figure beside
the bar it is held to. Knows the server by its HTTP API, and its memory by /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))

from msgspec import Struct, field

from bench.client import LoadClient, Target, run_on_loop
from bench.long_prompts import beside_long_prompts
from bench.peers.server import Server
from bench.recording import medians, record, spread, table, write
from bench.response import Answer, monotonic
from bench.serving import measured
from bench.startup import memory_mib
from bench.workloads import Sampling, Workload, body, id_prompts

PATH = "/v1/completions"
_REFUSED = (429, 503)
_LAG_SECONDS = 0.005


class Load(Struct):
    """What one load brought. `begin` to `end` is the window that counts; CLOCK_MONOTONIC seconds."""

    begin: float
    end: float
    answers: list[Answer] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    """How late the client's own event loop woke, which its times contain."""

    def figures(self) -> dict[str, Any]:
        """Times in milliseconds."""
        good = [answer for answer in self.answers if not answer.error]
        refused = [answer for answer in self.answers if answer.status in _REFUSED]
        others = [answer.error for answer in self.answers if answer.error and answer.status not in _REFUSED]
        seconds = self.end - self.begin
        return {
            "offered_per_second": len(self.answers) / seconds,
            "completed": len(good),
            "refused": len(refused),
            "errors": len(others),
            "first_error": others[0][:200] if others else "",
            "goodput_tokens_per_second": sum(self._tokens_within(answer) for answer in good) / seconds,
            "itl_ms": spread([gap * 1e3 for answer in good for gap in self._gaps_within(answer)]),
            "ttft_ms": spread([measured(answer, answer.sent).ttft * 1e3 for answer in good]),
            "refusal_ms": spread([(answer.headers_at - answer.sent) * 1e3 for answer in refused]),
            "without_retry_after": sum(not answer.retry_after.isdigit() for answer in refused),
            "client_lag_ms": spread([lag * 1e3 for lag in self.lags]),
        }

    def _tokens_within(self, answer: Answer) -> float:
        """Tokens of an answer that came within the window: of a frame with several, all at its time."""
        arrivals = answer.arrivals
        if not arrivals:
            return 0.0
        inside = sum(self.begin <= at <= self.end for at in arrivals)
        return measured(answer, answer.sent).output_tokens * inside / len(arrivals)

    def _gaps_within(self, answer: Answer) -> list[float]:
        arrivals = answer.arrivals
        pairs = zip(arrivals, arrivals[1:], strict=False)
        return [after - before for before, after in pairs if self.begin <= after <= self.end]


async def watch_own_lag(lags: list[float]) -> None:
    """Until it is cancelled."""
    while True:
        begin = monotonic()
        await asyncio.sleep(_LAG_SECONDS)
        lags.append(max(0.0, monotonic() - begin - _LAG_SECONDS))


async def full_door(client: LoadClient, bodies: Sequence[bytes], at_once: int, seconds: float, warm: float) -> Load:
    """So many at once, the next when one ends; `warm` seconds go before the window."""
    load = Load(monotonic() + warm, monotonic() + warm + seconds)
    watcher = asyncio.ensure_future(watch_own_lag(load.lags))
    waiting = iter(range(1 << 62))

    async def one_after_another() -> None:
        while monotonic() < load.end:
            load.answers.append(await client.post(PATH, bodies[next(waiting) % len(bodies)]))

    await asyncio.gather(*(one_after_another() for _ in range(at_once)))
    watcher.cancel()
    return load


async def flood(client: LoadClient, bodies: Sequence[bytes], rate: float, seconds: float, warm: float) -> Load:
    """`rate` requests a second (Poisson), whatever becomes of them."""
    load = Load(monotonic() + warm, monotonic() + warm + seconds)
    watcher = asyncio.ensure_future(watch_own_lag(load.lags))
    chance, due = random.Random(1), monotonic()
    tasks: set[asyncio.Task[Answer]] = set()
    number = 0
    while due < load.end:
        await asyncio.sleep(max(0.0, due - monotonic()))
        task = asyncio.ensure_future(client.post(PATH, bodies[number % len(bodies)]))
        task.add_done_callback(lambda done: load.answers.append(done.result()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        number += 1
        due += chance.expovariate(rate)
    while tasks:
        await asyncio.sleep(0.05)
    watcher.cancel()
    return load


class Run:
    """One round against one started server."""

    def __init__(self, options: argparse.Namespace, server: Server) -> None:
        self._options = options
        self._server = server
        self._client = LoadClient(Target.parse(server.url))
        workload = Workload(num_requests=2048, input_len=options.input_len, output_len=options.output_len)
        prompts = id_prompts(workload, options.vocab_size, options.seed)
        self._bodies = [
            body(server.model, prompt, options.output_len, Sampling(), is_chat=False, is_stream=True)
            for prompt in prompts
        ]

    async def all_loads(self) -> dict[str, Any]:
        try:
            return await self._all_loads()
        finally:
            self._client.close()

    async def _all_loads(self) -> dict[str, Any]:
        options = self._options
        status = json.loads((await self._client.get("/status")).last_frame)
        limits = status["limits"]
        found: dict[str, Any] = {}
        runs = limits["max_num_seqs"]
        # As many as run, and as many as the door takes: what is beyond is refused or waits.
        found["at capacity"] = (await self._load(full_door, runs)).figures()
        found["full door"] = (await self._load(full_door, limits["max_in_flight"])).figures()
        rate = max(found[name]["completed"] for name in ("at capacity", "full door")) / (options.seconds + options.warm)
        memory = self._memory()
        for factor in options.factors:
            load = await self._load(flood, factor * rate)
            now = self._memory()
            growth = {name: now[name] - size for name, size in memory.items() if name in now}
            found[f"{factor:g} x"] = {**load.figures(), "memory_growth_mib": growth}
        found["long prompts"] = await beside_long_prompts(
            self._client, self._server.url, self._server.model, options.streams, options.windows, options.window_seconds
        )
        return found

    async def _load(self, kind: Callable[..., Any], amount: float) -> Load:
        gc.collect()
        gc.freeze()  # or the client would stop for a tenth of a second to look through all answers so far
        gc.disable()
        try:
            load = await kind(self._client, self._bodies, amount, self._options.seconds, self._options.warm)
        finally:
            gc.enable()
        await asyncio.sleep(0.5)
        return load

    def _memory(self) -> dict[str, float]:
        return memory_mib(self._server.process_ids()[0])


def verdicts(found: dict[str, Any]) -> list[tuple[str, float, str, str]]:
    """(what, figure, bar, whether it is met) of everything that is promised."""
    peak = max(found[name]["goodput_tokens_per_second"] for name in ("at capacity", "full door"))
    calm = found["at capacity"]["itl_ms"]["p99"]
    rows: list[tuple[str, float, float, bool]] = []
    for name, load in found.items():
        if not name.endswith(" x"):
            continue
        rows += [
            (f"{name}: goodput / peak", load["goodput_tokens_per_second"] / peak, 0.9, True),
            (f"{name}: refusals, ms to the first byte, p99", load["refusal_ms"]["p99"], 5.0, False),
            (
                f"{name}: time between frames of the admitted, p99 / at capacity",
                load["itl_ms"]["p99"] / calm,
                1.2,
                False,
            ),
            (f"{name}: memory, MiB more", load["memory_growth_mib"]["together"], 50.0, False),
            (f"{name}: neither answered nor refused", load["errors"] + load["without_retry_after"], 0.0, False),
        ]
    for kind, ratio in found["long prompts"]["ratios"].items():
        rows.append((f"beside 8 MiB of {kind}: time between frames, p99 / without", ratio, 1.2, False))
    shown = []
    for what, figure, bar, is_least in rows:
        is_met = figure >= bar if is_least else figure <= bar
        shown.append((what, figure, f"{'>=' if is_least else '<='} {bar:g}", "yes" if is_met else "no"))
    return shown


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="overload.py", description="A server beyond its capacity.")
    add = made.add_argument
    add("--factors", type=float, nargs="+", default=[3.0, 10.0], help="of the peak rate (default: 3 10)")
    add("--seconds", type=float, default=30.0, help="of each load (default: %(default)s)")
    add("--warm", type=float, default=3.0, help="seconds of each load before they count (default: %(default)s)")
    add("--input-len", type=int, default=32, help="tokens of a prompt (default: %(default)s)")
    add("--output-len", type=int, default=64, help="tokens of an answer (default: %(default)s)")
    add("--vocab-size", type=int, default=2000, help="prompt ids are below this (default: %(default)s)")
    add("--streams", type=int, default=50, help="beside the long prompts (default: %(default)s)")
    add("--windows", type=int, default=6, help="with and without long prompts, of each kind (default: %(default)s)")
    add("--window-seconds", type=float, default=2.0, help="(default: %(default)s)")
    add("--rounds", type=int, default=1, help="of which medians are reported (default: %(default)s)")
    add("--seed", type=int, default=0, help="of the prompts (default: %(default)s)")
    add("--within", type=float, default=120.0, help="seconds a start may take (default: %(default)s)")
    add("--out", help="JSON file; a bare name goes to bench/results/")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options, flags = parser().parse_known_args(argv)
    rounds = []
    with tempfile.TemporaryDirectory(prefix="quire-bench-") as folder:
        words = [sys.executable, "-m", "quire", "serve", "--port", "{port}", "--run-dir", f"{folder}/run", *flags]
        server = Server("quire", " ".join(words), Path(folder), options.within)
        try:
            server.start()
            for _ in range(options.rounds):
                rounds.append(run_on_loop(Run(options, server).all_loads()))
        except RuntimeError as error:
            print(f"quire bench: {error}", file=sys.stderr)
            return 1
        finally:
            server.end()
    found = medians(rounds)
    judged = verdicts(found)
    loads = [(name, *_row(load)) for name, load in found.items() if name != "long prompts"]
    print(table(("load", "offered/s", "completed", "refused", "tokens/s", "ITL p99 ms", "client lag p99 ms"), loads))
    print("\n" + table(("", "measured", "bar", "met"), judged))
    if options.out:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        results = {"verdicts": judged, "medians": found, "rounds": rounds}
        print(f"\nwritten to {write(record('overload', results, {**settings, 'flags': flags}), options.out)}")
    return 0


def _row(load: dict[str, Any]) -> tuple[Any, ...]:
    return (
        load["offered_per_second"], load["completed"], load["refused"], load["goodput_tokens_per_second"],
        load["itl_ms"]["p99"], load["client_lag_ms"]["p99"],
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
