"""Each operation of a model against what the machine could do: milliseconds by backend beside a floor.

`python bench/kernels.py`. The floor is the bytes that must be read at the bandwidth, or the products at the
peak, whichever is longer; both are measured in the same run. `--step MODEL` also measures whole decode steps.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent))

import numpy as np
import torch

from bench import offline
from bench.recording import percentile, record, table, write
from quire import kernels
from quire.shared import model_files
from quire.shared.config import WorkerConfig
from quire.shared.flags import parse
from quire.shared.messages import Configure

_COLD_BYTES = 96 << 20
"""Weights and caches that are read in turn: more than any cache holds, as in a model."""
_BLOCK_SIZE = 16


class Dimensions(NamedTuple):
    """Of one layer of a model, and its vocabulary."""

    hidden: int
    query_heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int


MODELS = {"A": Dimensions(1024, 16, 8, 128, 3072, 32768), "B": Dimensions(768, 12, 4, 64, 2048, 32768)}
"""bench/checkpoints.py has the whole models."""


@contextlib.contextmanager
def cold(num_bytes: int) -> Iterator[None]:
    """Within it, so much memory is taken in turn: more than another device's caches hold."""
    global _COLD_BYTES
    before, _COLD_BYTES = _COLD_BYTES, num_bytes
    try:
        yield
    finally:
        _COLD_BYTES = before


class Machine(NamedTuple):
    """What is possible here with the threads given."""

    bytes_per_second: float
    products_per_second: float
    """Multiplications with their additions, of bfloat16."""

    def floor_ms(self, num_bytes: float, num_products: float = 0.0) -> float:
        return 1e3 * max(num_bytes / self.bytes_per_second, num_products / self.products_per_second)


class Operation(NamedTuple):
    """One row of the table. `prepare` returns the call, for the backend in use at that time."""

    name: str
    shape: str
    floor_ms: float
    prepare: Callable[[], Callable[[], Any]]


def measured_machine() -> Machine:
    """The best of several, on memory that was written before: a page never written is read from the cache."""
    numbers = torch.ones(64 << 20)
    readers = (lambda: numbers.sum(), lambda: numbers.max(), lambda: kernels.rows_are_finite(numbers.view(64, -1)))
    read = min(_seconds(reader, 0.3, 0) for reader in readers)
    size = 2048
    left, right = (torch.randn(size, size, dtype=torch.bfloat16) for _ in range(2))
    return Machine(numbers.nbytes / read, size**3 / _seconds(lambda: left @ right, 1.0, 0))


def _seconds(call: Callable[[], Any], budget: float, share: float = 50) -> float:
    """Of one call: that percentile (0: the fastest) of as many as fit into `budget` seconds, three at least."""
    call()
    times: list[float] = []
    end = time.perf_counter() + budget
    while len(times) < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return percentile(times, share)


def linear(machine: Machine, name: str, rows: int, out_size: int, in_size: int) -> Operation:
    def prepare() -> Callable[[], Any]:
        count = max(2, math.ceil(_COLD_BYTES / (2 * out_size * in_size)))
        packed = [kernels.pack_linear(torch.randn(out_size, in_size).to(torch.bfloat16)) for _ in range(count)]
        weights, x = cycle(packed), torch.randn(rows, in_size).to(torch.bfloat16)
        return lambda: kernels.linear(x, next(weights), None)

    num_bytes = 2 * (out_size * in_size + rows * (out_size + in_size))
    return Operation(
        name, f"[{rows}, {in_size}] x [{out_size}]", machine.floor_ms(num_bytes, rows * out_size * in_size), prepare
    )


def elementwise(machine: Machine, of: Dimensions, rows: int) -> Iterator[Operation]:
    """The floor is the memory's, although so little may lie in a cache: then it is beaten."""

    def norm() -> Callable[[], Any]:
        x, residual = (torch.randn(rows, of.hidden).to(torch.bfloat16) for _ in range(2))
        weight = torch.ones(of.hidden, dtype=torch.bfloat16)
        return lambda: kernels.add_rms_norm(x, residual, weight, 1e-6)

    def activation() -> Callable[[], Any]:
        x = torch.randn(rows, 2 * of.intermediate).to(torch.bfloat16)
        return lambda: kernels.gated_activation(x, "silu")

    yield Operation("add_rms_norm", f"[{rows}, {of.hidden}]", machine.floor_ms(8 * rows * of.hidden), norm)
    size = f"[{rows}, 2 x {of.intermediate}]"
    yield Operation("gated_activation", size, machine.floor_ms(6 * rows * of.intermediate), activation)


def _batch(rows: int, queries: int, context: int) -> tuple[kernels.RaggedBatch, int]:
    """`rows` of `context` tokens of which `queries` are new, in scattered blocks; and how many blocks."""
    per_row = -(-context // _BLOCK_SIZE)
    tables = np.random.default_rng(0).permutation(rows * per_row).astype(np.int32).reshape(rows, per_row)
    cu_q = np.arange(rows + 1, dtype=np.int32) * queries
    lengths = np.full(rows, context, np.int32)
    device = torch.get_default_device()
    batch = kernels.RaggedBatch(
        torch.from_numpy(tables).to(device),
        torch.from_numpy(cu_q).to(device),
        torch.from_numpy(lengths).to(device),
        tables,
        cu_q,
        lengths,
        _BLOCK_SIZE,
    )
    return batch, rows * per_row


def attention(machine: Machine, of: Dimensions, rows: int, queries: int, context: int) -> Operation:
    def prepare() -> Callable[[], Any]:
        batch, num_blocks = _batch(rows, queries, context)
        size = (2, num_blocks, of.kv_heads, _BLOCK_SIZE, of.head_dim)
        count = max(1, math.ceil(_COLD_BYTES / (2 * math.prod(size))))
        caches = cycle([torch.randn(size).to(torch.bfloat16) for _ in range(count)])
        q = torch.randn(rows * queries, of.query_heads, of.head_dim).to(torch.bfloat16)

        def call() -> torch.Tensor:
            cache = next(caches)
            return kernels.paged_attention(q, cache[0], cache[1], batch, of.head_dim**-0.5, None)

        return call

    num_bytes = 4 * rows * context * of.kv_heads * of.head_dim
    # Each query sees what is before it: half of the square.
    seen = rows * queries * (context - queries / 2)
    name = "attention, decode" if queries == 1 else "attention, prefill"
    floor = machine.floor_ms(num_bytes, 2 * seen * of.query_heads * of.head_dim)
    return Operation(name, f"{rows} x {queries} of {context}", floor, prepare)


def rope(machine: Machine, of: Dimensions, rows: int) -> Operation:
    def prepare() -> Callable[[], Any]:
        heads = of.query_heads + 2 * of.kv_heads
        qkv = torch.randn(rows, heads * of.head_dim).to(torch.bfloat16)
        norm = torch.ones(of.head_dim, dtype=torch.bfloat16)
        cos_sin = torch.randn(max(4096, rows), of.head_dim)
        positions = torch.arange(rows, dtype=torch.int32)
        blocks = -(-rows // _BLOCK_SIZE)
        cache = torch.zeros(2, blocks, of.kv_heads, _BLOCK_SIZE, of.head_dim, dtype=torch.bfloat16)
        return lambda: kernels.rope_and_cache(qkv, norm, norm, 1e-6, cos_sin, positions, positions, cache[0], cache[1])

    size = rows * (of.query_heads + 2 * of.kv_heads) * of.head_dim
    return Operation("rope_and_cache", f"{rows} tokens", machine.floor_ms(4 * size), prepare)


def sampling(machine: Machine, vocab: int, rows: int) -> Iterator[Operation]:
    def logits() -> Iterator[torch.Tensor]:
        count = max(2, math.ceil(_COLD_BYTES / (4 * rows * vocab)))
        return cycle([torch.randn(rows, vocab) * 3 for _ in range(count)])

    def greedy() -> Callable[[], Any]:
        each = logits()
        return lambda: kernels.greedy(next(each))

    def sample(top_k: int, top_p: float) -> Callable[[], Any]:
        each = logits()
        ones, zeros = torch.ones(rows), torch.zeros(rows)
        ks, uniforms = torch.full((rows,), top_k), torch.rand(rows, dtype=torch.float64)
        return lambda: kernels.sample(next(each), ones, ks, ones * top_p, zeros, uniforms)

    floor, shape = machine.floor_ms(4 * rows * vocab), f"[{rows}, {vocab}]"
    yield Operation("greedy", shape, floor, greedy)
    yield Operation("sample", shape, floor, lambda: sample(0, 1.0))
    yield Operation("sample, top-k and top-p", shape, floor, lambda: sample(50, 0.9))


def operations(machine: Machine, of: Dimensions, num_rows: Sequence[int], prefill: int) -> Iterator[Operation]:
    kv_size = of.kv_heads * of.head_dim
    heads = of.query_heads * of.head_dim
    for rows in (*num_rows, prefill):
        yield linear(machine, "qkv", rows, heads + 2 * kv_size, of.hidden)
        yield linear(machine, "attention output", rows, of.hidden, heads)
        yield linear(machine, "gate and up", rows, 2 * of.intermediate, of.hidden)
        yield linear(machine, "down", rows, of.hidden, of.intermediate)
        yield rope(machine, of, rows)
        yield from elementwise(machine, of, rows)
    for rows in num_rows:
        yield linear(machine, "head", rows, of.vocab, of.hidden)
        for context in (128, 1024):
            yield attention(machine, of, rows, 1, context)
        yield from sampling(machine, of.vocab, rows)
    yield attention(machine, of, 1, prefill, prefill)


def timed(operation: Operation, backends: Sequence[str], budget: float) -> dict[str, Any]:
    """Milliseconds by backend, the backends by turns."""
    calls, times = {}, {name: [] for name in backends}
    for name in backends:
        kernels.use(name)
        calls[name] = operation.prepare()
    for _ in range(3):
        for name in backends:
            kernels.use(name)
            times[name].append(_seconds(calls[name], budget / 3) * 1e3)
    fastest = {name: percentile(found, 50) for name, found in times.items()}
    return {"operation": operation.name, "shape": operation.shape, "ms": fastest, "floor_ms": operation.floor_ms}


def steps(machine: Machine, model: str, flags: Sequence[str], num_rows: Sequence[int]) -> list[dict[str, Any]]:
    """Whole decode steps of a model after 128 tokens; the floor is reading its weights and the rows' caches."""
    wanted = Configure(64, 1024, 1024, _BLOCK_SIZE, 1 << 30, 0.9)
    config = parse(WorkerConfig, ["--model", model, *flags], prog="kernels.py")
    runner, facts = offline.load(config, wanted)
    entries = model_files.read_weight_entries(model_files.find_model(model))
    per_token = (1 << 30) / (facts.num_blocks * _BLOCK_SIZE)
    weight_bytes = min(runner.weight_bytes, sum(entry.size_bytes for entry in entries.values()))
    loop = offline.Steps(runner.step, offline.limits_of(wanted, facts), facts.eos_token_ids)
    found = []
    for rows in num_rows:
        chance = np.random.default_rng(rows)
        prompts = [chance.integers(300, 2000, 128).tolist() for _ in range(rows)]
        milliseconds = loop.run(prompts, 32, rows)["decode_step_ms"]["p50"]
        floor = machine.floor_ms(weight_bytes + rows * 144 * per_token)
        ms = {facts.backend: milliseconds}
        found.append({"operation": "decode step", "shape": f"{rows} rows of 144", "ms": ms, "floor_ms": floor})
    return found


def report(rows: Sequence[dict[str, Any]]) -> str:
    backends = list(dict.fromkeys(name for row in rows for name in row["ms"]))
    header = ("operation", "shape", *(f"{name} ms" for name in backends), "floor ms", "best / floor")
    lines = []
    for row in rows:
        times = [row["ms"].get(name, math.nan) for name in backends]
        lines.append(
            (row["operation"], row["shape"], *times, row["floor_ms"], min(row["ms"].values()) / row["floor_ms"])
        )
    return table(header, lines)


def usable_backends() -> list[str]:
    try:
        kernels.use("native")
    except kernels.BuildError as error:
        print(f"without native kernels: {error}", file=sys.stderr)
        return ["torch"]
    return ["torch", "native"]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="kernels.py", description="Operations against the machine.", allow_abbrev=False)
    add = made.add_argument
    add("--dimensions", nargs="*", default=["A"], choices=sorted(MODELS), help="whose shapes (default: A)")
    add("--rows", nargs="+", type=int, default=[1, 16, 64], help="of a decode step (default: 1 16 64)")
    add("--prefill", type=int, default=1024, help="tokens of a prompt (default: %(default)s)")
    add("--only", default="", help="operations whose name begins so")
    add("--seconds", type=float, default=0.3, help="for each operation and backend (default: %(default)s)")
    add("--threads", type=int, help="(default: torch's choice)")
    add("--step", metavar="MODEL", help="also whole decode steps of this model, with the worker's flags that follow")
    add("--out", help="JSON file; a bare name goes to bench/results/")
    return made


@torch.inference_mode()
def main(argv: Sequence[str] | None = None) -> int:
    options, flags = parser().parse_known_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    if flags and not options.step:
        parser().error(f"unknown: {' '.join(flags)}")
    backends = usable_backends()
    machine = measured_machine()
    gigabytes, products = machine.bytes_per_second / 1e9, machine.products_per_second / 1e9
    print(f"reads {gigabytes:.1f} GB/s, {products:.0f} G bfloat16 products/s")
    results: dict[str, list[dict[str, Any]]] = {}
    for name in options.dimensions:
        of = MODELS[name]
        chosen = [
            one for one in operations(machine, of, options.rows, options.prefill) if one.name.startswith(options.only)
        ]
        results[name] = [timed(one, backends, options.seconds) for one in chosen]
        print(f"\nshapes of {name}\n{report(results[name])}", flush=True)
    if options.step:
        results["steps"] = steps(machine, options.step, flags, [rows for rows in options.rows if rows <= 64])
        print(f"\n{options.step}\n{report(results['steps'])}")
    if options.out:
        settings = {**vars(options), "worker": flags, "threads": torch.get_num_threads(), **machine._asdict()}
        print(f"\nwritten to {write(record('kernels', results, settings), options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
