"""`LLM.generate` of many short texts beside the engine alone, by turns on the same processes.

`python bench/offline.py --llm`. The engine alone: its process and its worker's, asked by engine_alone.py for as many
prompts of as many tokens, of whose rows it is told step by step. No two rounds share a prompt.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.deployment import cpu_seconds
from bench.engine_alone import EngineAlone, as_bytes
from bench.recording import medians, record, table, write
from bench.response import monotonic
from bench.workloads import Workload, text_prompts
from quire import LLM, SamplingParams
from quire.services.tokenizer.tokenizer import TextTokenizer
from quire.services.tokenizer.tokenizer_files import read_tokenizer_files
from quire.shared import model_files
from quire.shared.config import EngineConfig
from quire.shared.messages import SamplingParams as EngineSamplingParams

LLM_SIDE, ENGINE_SIDE = "LLM.generate", "engine alone"


class Sides:
    """What is compared; each takes texts and answers each with as many tokens."""

    def __init__(self, llm: LLM, model: Path, max_num_seqs: int, output_len: int) -> None:
        self._llm = llm
        chain = llm._chain
        self._engine = EngineAlone(chain.run_dir)
        self._tokenizer = TextTokenizer(read_tokenizer_files(model))
        self._most_open = max(64, 4 * max_num_seqs)  # what the engine lets wait
        self._output_len = output_len
        self._pids = {**chain.pids, "caller": os.getpid()}

    def encode(self, texts: list[str]) -> list[bytes]:
        return as_bytes(self._tokenizer.encode_texts(texts, add_special_tokens=True))

    def generate(self, texts: list[str]) -> int:
        outputs = self._llm.generate(texts, SamplingParams(max_tokens=self._output_len, temperature=0, ignore_eos=True))
        failed = [output.error for output in outputs if output.error]
        if failed:
            raise RuntimeError(f"{len(failed)} prompts failed, the first: {failed[0]}")
        return sum(len(output.token_ids) for output in outputs)

    def engine_alone(self, prompts: list[bytes]) -> int:
        sampling = EngineSamplingParams(max_tokens=self._output_len, temperature=0.0, ignore_eos=True)
        return self._engine.run(prompts, sampling, self._most_open)

    def measure(self, run: Callable[[Any], int], prompts: Sequence[Any]) -> dict[str, Any]:
        """Raises RuntimeError when an answer is not whole."""
        before, begin = self._cpu_seconds(), monotonic()
        num_tokens = run(prompts)
        seconds, after = monotonic() - begin, self._cpu_seconds()
        if num_tokens != len(prompts) * self._output_len:
            raise RuntimeError(f"{num_tokens} tokens came of {len(prompts)} x {self._output_len}")
        return {
            "seconds": seconds,
            "output_tokens_per_second": num_tokens / seconds,
            "cpu_seconds": {name: after[name] - before[name] for name in after},
        }

    def _cpu_seconds(self) -> dict[str, float]:
        return {name: cpu_seconds(pid) for name, pid in self._pids.items()}

    def close(self) -> None:
        self._engine.close()


def all_rounds(sides: Sides, num_requests: int, input_len: int, num_rounds: int) -> list[dict[str, Any]]:
    """Both sides once a round, the first one by turns; round 0 is short, to warm up, and forgotten."""
    rounds: list[dict[str, Any]] = []
    for number in range(num_rounds + 1):
        workload = Workload(num_requests=num_requests if number else min(64, num_requests), input_len=input_len)
        ids = sides.encode(text_prompts(workload, 2 * number))
        texts = text_prompts(workload, 2 * number + 1)
        runs: list[tuple[str, Callable[[Any], int], Any]] = [
            (ENGINE_SIDE, sides.engine_alone, ids),
            (LLM_SIDE, sides.generate, texts),
        ]
        found = {name: sides.measure(run, prompts) for name, run, prompts in runs[:: -1 if number % 2 else 1]}
        found["ratio"] = found[LLM_SIDE]["seconds"] / found[ENGINE_SIDE]["seconds"]
        rounds.append(found)
        if number:
            sides_of = (f"{name} {found[name]['seconds']:.2f} s" for name in (LLM_SIDE, ENGINE_SIDE))
            print(f"round {number}: {', '.join(sides_of)}", flush=True)
    return rounds[1:]


def report(middle: dict[str, Any]) -> str:
    names = list(middle[LLM_SIDE]["cpu_seconds"])
    rows = [
        (name, one["seconds"], one["output_tokens_per_second"], *(one["cpu_seconds"][each] for each in names))
        for name, one in middle.items()
        if name != "ratio"
    ]
    header = ("", "seconds", "output tokens/s", *(f"CPU s {name}" for name in names))
    return (
        f"{table(header, rows)}\n\n{LLM_SIDE} takes {middle['ratio']:.3f} of the engine's time (median of the rounds)"
    )


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="offline.py --llm", description="LLM.generate beside the engine alone.", allow_abbrev=False
    )
    add = made.add_argument
    add("--model", help="checkpoint folder (default: the demo model)")
    add("--num-requests", type=int, default=1000, help="prompts of a round (default: %(default)s)")
    add("--input-len", type=int, default=24, help="words of a prompt (default: %(default)s)")
    add("--output-len", type=int, default=64, help="tokens of an answer (default: %(default)s)")
    add("--max-num-seqs", type=int, default=EngineConfig().max_num_seqs, help="(default: %(default)s)")
    add("--rounds", type=int, default=5, help="of which medians are reported (default: %(default)s)")
    add("--out", help="JSON file; a bare name goes to bench/results/")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        with LLM(options.model, max_num_seqs=options.max_num_seqs) as llm:
            sides = Sides(llm, model_files.find_model(options.model), options.max_num_seqs, options.output_len)
            try:
                rounds = all_rounds(sides, options.num_requests, options.input_len, options.rounds)
            finally:
                sides.close()
    except Exception as error:
        print(f"quire bench: {error}", file=sys.stderr)
        return 1
    middle = medians(rounds)
    print(f"\n{options.model or 'demo model'}, {options.num_requests} prompts\n{report(middle)}")
    if options.out:
        results = {"medians": middle, "rounds": rounds}
        print(f"\nwritten to {write(record('offline-llm', results, vars(options)), options.out)}")
    return 0
