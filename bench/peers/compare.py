"""Servers against each other: the same requests to each in turn, round after round, and the ratios of their medians.

`python bench/peers/compare.py --server ours='...{port}' --server theirs='...{port}' --workload W1`. One
server computes at a time. The first is set against each other one. Flags that are not its own go to serving.py.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from bench import serving
from bench.client import run_on_loop
from bench.peers.server import MachineUse, Server
from bench.recording import medians, record, table, write

_SEEDS_OF_A_ROUND = 1_000_000
"""So that no round has a prompt of another's."""


class Comparison:
    """All rounds; `rounds` holds what was measured so far: workload -> server -> result, of each round."""

    def __init__(self, options: argparse.Namespace, flags: Sequence[str], servers: Sequence[Server]) -> None:
        self._options = options
        self._flags = flags
        self._servers = servers
        self.start_seconds: dict[str, list[float]] = {server.name: [] for server in servers}
        self.rounds: list[dict[str, dict[str, Any]]] = []

    def run(self) -> None:
        """Raises RuntimeError when a server does not start, or ends."""
        for number in range(self._options.rounds):
            self.rounds.append({name: {} for name in self._options.workload})
            for server, workloads in self._turns(number):
                self._take_turn(server, number, workloads)

    def _turns(self, number: int) -> Iterator[tuple[Server, Sequence[str]]]:
        """Every second round the other way round, so that what changes with time falls on both."""
        order = self._servers if number % 2 == 0 else self._servers[::-1]
        if not self._options.keep:
            yield from ((server, self._options.workload) for server in order)
            return
        for name in self._options.workload:
            yield from ((server, [name]) for server in order)

    def _take_turn(self, server: Server, number: int, workloads: Sequence[str]) -> None:
        if server.is_started:
            server.resume()
        else:
            self.start_seconds[server.name].append(server.start())
        for name in workloads:
            result = self._measure(server, number, name)
            self.rounds[number][name][server.name] = result
            print(_line(number, name, server.name, result), flush=True)
        if self._options.keep:
            server.pause()
        else:
            server.end()

    def _measure(self, server: Server, number: int, workload: str) -> dict[str, Any]:
        flags = ["--workload", workload, *self._flags, "--url", server.url, "--model", server.model]
        flags += ["--rounds", "1", "--quiet", "--seed", str(number * _SEEDS_OF_A_ROUND)]
        run = serving.Run(serving.parser().parse_args(flags))
        use = MachineUse(server)
        (result,) = run_on_loop(run.all_rounds())
        server.check()
        return {**result, "cpu_shares": use.shares()}

    def results(self) -> dict[str, dict[str, Any]]:
        """Medians of the rounds that are whole: workload -> server -> figures."""
        whole = [one for one in self.rounds if all(len(found) == len(self._servers) for found in one.values())]
        if not whole:
            return {}
        middle, found = medians(whole), {}
        for name, servers in middle.items():
            found[name] = {server.name: servers[server.name] for server in self._servers}  # as they were given
            for server, figures in found[name].items():
                figures["errors"] = sum(one[name][server]["errors"] for one in whole)
        return found


def _line(number: int, workload: str, name: str, result: dict[str, Any]) -> str:
    errors = f", {result['errors']} errors: {result['first_error']}" if result["errors"] else ""
    return (
        f"round {number + 1} {workload} {name}: {result['output_tokens_per_second']:.1f} output tokens/s, "
        f"ttft p50 {result['ttft_ms']['p50']:.1f} ms, itl p50 {result['itl_ms']['p50']:.2f} ms, "
        f"others {result['cpu_shares']['others']:.0%} of the CPUs{errors}"
    )


def ratios(results: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """`workload first/other` -> how many times as fast the first server is, by figure: above 1 it is better."""
    found = {}
    for workload, servers in results.items():
        (first, ours), *others = servers.items()
        for name, theirs in others:
            found[f"{workload} {first}/{name}"] = {
                "output tokens/s": _over(ours["output_tokens_per_second"], theirs["output_tokens_per_second"]),
                "ttft p50": _over(theirs["ttft_ms"]["p50"], ours["ttft_ms"]["p50"]),
                "itl p50": _over(theirs["itl_ms"]["p50"], ours["itl_ms"]["p50"]),
                "tpot p50": _over(theirs["tpot_ms"]["p50"], ours["tpot_ms"]["p50"]),
            }
    return found


def _over(one: float, other: float) -> float:
    return one / other if other else math.nan


def report(results: dict[str, dict[str, Any]]) -> str:
    """Two tables: each server's medians, and the ratios."""
    rows = [
        (
            f"{workload} {name}",
            one["output_tokens_per_second"],
            one["ttft_ms"]["p50"],
            one["itl_ms"]["p50"],
            one["tpot_ms"]["p50"],
            one["errors"],
            f"{one['cpu_shares']['others']:.0%}",
        )
        for workload, servers in results.items()
        for name, one in servers.items()
    ]
    header = ("medians", "output tokens/s", "ttft ms", "itl ms", "tpot ms", "errors", "CPU of others")
    tables = [table(header, rows)]
    compared = ratios(results)
    if compared:
        columns = next(iter(compared.values()))
        tables.append(table(("times as fast", *columns), [(name, *one.values()) for name, one in compared.items()]))
    return "\n\n".join(tables)


def named_command(text: str) -> tuple[str, str]:
    name, equals, command = text.partition("=")
    if not (name.isidentifier() and equals and "{port}" in command):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COMMAND with {{port}} in the command")
    return name, command


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="compare.py", description="Servers against each other, in turn.")
    add = made.add_argument
    add("--server", type=named_command, action="append", required=True, metavar="NAME=COMMAND", help="with {port}")
    add("--workload", nargs="+", default=["W1"], choices=sorted(serving.PRESETS), help="(default: W1)")
    add("--rounds", type=int, default=3, help="of which medians are reported (default: %(default)s)")
    add("--keep", action="store_true", help="start each server once; those whose turn it is not stand still (SIGSTOP)")
    add("--within", type=float, default=600.0, help="seconds a start may take (default: %(default)s)")
    add("--out", help="JSON file; a bare name goes to bench/results/")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options, flags = parser().parse_known_args(argv)
    serving.parser().parse_args(flags)  # what neither knows ends here
    failure = ""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # servers are ended also then
    with tempfile.TemporaryDirectory(prefix="quire-bench-") as folder:
        servers = [Server(name, command, Path(folder), options.within) for name, command in options.server]
        comparison = Comparison(options, flags, servers)
        try:
            comparison.run()
        except RuntimeError as error:
            failure = str(error)
        finally:
            for server in servers:
                server.end()
    results = comparison.results()
    if results:
        print("\n" + report(results))
    if results and options.out:
        settings = {**vars(options), "server": dict(options.server), "flags": flags}
        found = {"medians": results, "ratios": ratios(results), "rounds": comparison.rounds}
        found["start_seconds"] = comparison.start_seconds
        print(f"\nwritten to {write(record('compare', found, settings), options.out)}")
    if failure:
        print(f"quire bench: {failure}", file=sys.stderr)
    return 1 if failure or any(one["errors"] for servers in results.values() for one in servers.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
