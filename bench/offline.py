"""Model and scheduler without the rest of the chain: the workloads of serving.py in one process.

`python bench/offline.py --model FOLDER --workload W1`. The engine's scheduler and committer drive the
worker's model runner directly, one plan at a time. Flags that are not its own are the worker's.
"""

from __future__ import annotations

import argparse
import inspect
import sys
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))

import msgspec

from bench.recording import medians, record, spread, table, write
from bench.response import monotonic
from bench.workloads import PRESETS, Workload, id_prompts
from quire.services.engine.commit import Committer
from quire.services.engine.limits import Limits
from quire.services.engine.outbox import Outbox
from quire.services.engine.scheduler import Scheduler
from quire.services.engine.stats import Stats
from quire.services.engine.step_builder import build_plan
from quire.shared import model_files
from quire.shared.config import EngineConfig, WorkerConfig
from quire.shared.flags import fields, parse, parse_size
from quire.shared.messages import Configure, Plan, RequestId, SamplingParams, StepResult, Submit, WorkerReady

_PEER = "bench"


class Steps:
    """The engine's loop at depth 1 over a worker that answers a plan when it is called."""

    def __init__(self, apply: Callable[[Plan], StepResult], limits: Limits, eos_token_ids: Sequence[int]) -> None:
        self._apply = apply
        self._scheduler = Scheduler(limits)
        self._outbox = Outbox()
        self._committer = Committer(self._scheduler, self._outbox, Stats(), frozenset(eos_token_ids))
        self._number = 0

    def run(self, prompts: Sequence[Sequence[int]], output_len: int, concurrency: int) -> dict[str, Any]:
        """Closed loop: a request comes when one ends. Raises RuntimeError when a request is not answered in full."""
        waiting = list(enumerate(prompts, 1))[::-1]
        sampling = SamplingParams(max_tokens=output_len, temperature=0.0, ignore_eos=True)
        num_open = num_tokens = 0
        decode, prefill, outside = [], [], 0.0
        begin = monotonic()
        while waiting or num_open:
            while waiting and num_open < concurrency:
                request_id, ids = waiting.pop()
                prompt = array("i", ids).tobytes()
                submit = Submit(RequestId(self._number << 20 | request_id), prompt, 1, sampling, 0, monotonic())
                self._scheduler.add(_PEER, submit, monotonic())
                num_open += 1
            started = monotonic()
            step = self._scheduler.schedule(started)
            if step is None:
                raise RuntimeError(f"{num_open} requests are open and nothing can be scheduled")
            self._number += 1
            result = self._apply(build_plan(self._number, step))
            if result.failed_rows:
                raise RuntimeError("the model's output was not a number")
            is_decode = all(row.num_scheduled == 1 for row in step.rows)
            (decode if is_decode else prefill).append(result.seconds * 1e3)
            self._committer.commit(step, result, monotonic())
            for _, batch in self._outbox.flush():
                num_tokens += sum(batch.counts)
                num_open -= len(batch.finished)
            outside += monotonic() - started - result.seconds
        seconds = monotonic() - begin
        if num_tokens != len(prompts) * output_len:
            raise RuntimeError(f"{num_tokens} tokens came of {len(prompts)} x {output_len}")
        return {
            "seconds": seconds,
            "output_tokens": num_tokens,
            "output_tokens_per_second": num_tokens / seconds,
            "decode_steps": len(decode),
            "prefill_steps": len(prefill),
            "decode_step_ms": spread(decode),
            "prefill_step_ms": spread(prefill),
            "outside_of_steps_ms": outside * 1e3 / (len(decode) + len(prefill)),
        }


def load(config: WorkerConfig, wanted: Configure) -> tuple[Any, WorkerReady]:
    """The model runner of the worker's flags, configured. Raises what loading raises."""
    from quire.services.worker.device import choose_kernels
    from quire.services.worker.model_runner import ModelRunner

    choose_kernels(config.kernels, config.device)
    taken = inspect.signature(ModelRunner).parameters.keys() & fields(WorkerConfig).keys()
    runner = ModelRunner(model_files.find_model(config.model), **{name: getattr(config, name) for name in taken})
    return runner, runner.configure(wanted)


def limits_of(wanted: Configure, facts: WorkerReady) -> Limits:
    return Limits(
        num_blocks=facts.num_blocks,
        block_size=wanted.block_size,
        max_num_seqs=wanted.max_num_seqs,
        max_num_batched_tokens=wanted.max_num_batched_tokens,
        max_model_len=facts.max_model_len,
    )


def report(results: dict[str, dict[str, Any]]) -> str:
    rows = [
        (
            name,
            one["output_tokens_per_second"],
            one["decode_step_ms"]["p50"],
            one["decode_step_ms"]["p99"],
            one["prefill_step_ms"]["p50"],
            one["outside_of_steps_ms"],
        )
        for name, one in results.items()
    ]
    header = ("workload", "output tokens/s", "decode step ms", "p99", "prefill step ms", "scheduling ms a step")
    return table(header, rows)


def parser() -> argparse.ArgumentParser:
    defaults = EngineConfig()
    made = argparse.ArgumentParser(
        prog="offline.py", description="Scheduler and model in one process.", allow_abbrev=False
    )
    add = made.add_argument
    add("--workload", nargs="+", default=["W1"], choices=sorted(PRESETS), help="(default: W1)")
    add("--num-requests", type=int, help="of a round, in place of the workload's")
    add("--output-len", type=int, help="tokens of an answer, in place of the workload's")
    add("--vocab-size", type=int, default=2000, help="prompt ids are below this (default: %(default)s)")
    add("--max-num-seqs", type=int, default=defaults.max_num_seqs, help="(default: %(default)s)")
    add("--max-num-batched-tokens", type=int, default=defaults.max_num_batched_tokens, help="(default: %(default)s)")
    add("--max-model-len", type=int, default=2048, help="(default: %(default)s)")
    add("--kv-cache-memory", type=parse_size, default=parse_size("1GiB"), help="(default: 1GiB)")
    add("--rounds", type=int, default=3, help="of which medians are reported (default: %(default)s)")
    add("--llm", action="store_true", help="instead: LLM.generate beside the engine alone; --llm --help for its flags")
    add("--out", help="JSON file; a bare name goes to bench/results/")
    return made


def workload_of(options: argparse.Namespace, name: str) -> Workload:
    changes = {key: value for key in ("num_requests", "output_len") if (value := getattr(options, key)) is not None}
    return msgspec.structs.replace(PRESETS[name], **changes)


def all_rounds(steps: Steps, options: argparse.Namespace, vocab_size: int) -> list[dict[str, Any]]:
    """Each workload once a round; round 0 is to warm up, and forgotten."""
    rounds: list[dict[str, Any]] = []
    for number in range(options.rounds + 1):
        found = {}
        for name in options.workload:
            workload = workload_of(options, name)
            prompts = id_prompts(workload, min(options.vocab_size, vocab_size), 1000 * number)
            if number == 0:
                steps.run(prompts[:4], min(8, workload.output_len), workload.concurrency)
            else:
                found[name] = steps.run(prompts, workload.output_len, workload.concurrency)
                print(f"round {number} {name}: {found[name]['output_tokens_per_second']:.1f} tokens/s", flush=True)
        rounds.append(found)
    return rounds[1:]


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "--llm" in arguments:
        from bench import offline_llm

        return offline_llm.main([argument for argument in arguments if argument != "--llm"])
    options, flags = parser().parse_known_args(arguments)
    config = parse(WorkerConfig, flags, prog="offline.py")
    wanted = Configure(
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        max_model_len=options.max_model_len,
        block_size=EngineConfig().block_size,
        kv_cache_memory_bytes=options.kv_cache_memory,
        memory_utilization=EngineConfig().memory_utilization,
    )
    try:
        runner, facts = load(config, wanted)
        steps = Steps(runner.step, limits_of(wanted, facts), facts.eos_token_ids)
        rounds = all_rounds(steps, options, facts.vocab_size)
    except Exception as error:
        print(f"quire bench: {error}", file=sys.stderr)
        return 1
    middle = medians(rounds)
    print(f"\n{config.model or 'demo model'}, {facts.dtype}, {facts.backend} kernels\n" + report(middle))
    if options.out:
        settings = {**vars(options), "worker": flags, "dtype": facts.dtype, "kernels": facts.backend}
        print(f"\nwritten to {write(record('offline', {'medians': middle, 'rounds': rounds}, settings), options.out)}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
