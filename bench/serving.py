"""Load against any OpenAI-compatible server: throughput, time to first token, time between tokens.

`python bench/serving.py --workload W1`, or `quire bench serve`. Closed loop (so many at once) or open
loop (so many a second, whatever the server does). Prints a table; --out writes JSON.
Knows the server by its HTTP API only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))

import msgspec
from msgspec import Struct

from bench.client import LoadClient, Target, run_on_loop
from bench.recording import medians, record, spread, table, write
from bench.response import Answer, monotonic
from bench.workloads import PRESETS, Sampling, Workload, body, id_prompts, poisson_starts, text_prompts


class Usage(Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _WithUsage(Struct):
    usage: Usage | None = None


class Measured(Struct):
    """One request, in seconds and tokens. `ttft` counts from when it should have been sent."""

    ttft: float
    e2e: float
    gaps: list[float]
    """Between frames that carry text."""
    prompt_tokens: int
    output_tokens: int
    is_counted_by_usage: bool


_usage_decoder = msgspec.json.Decoder(_WithUsage)


def measured(answer: Answer, due: float) -> Measured:
    """Of an answer without an error. Tokens are the server's own count, or else the frames."""
    try:
        usage = _usage_decoder.decode(answer.last_frame).usage
    except msgspec.MsgspecError:
        usage = None
    arrivals = answer.arrivals
    return Measured(
        ttft=(arrivals[0] if arrivals else answer.ended) - due,
        e2e=answer.ended - due,
        gaps=[after - before for before, after in zip(arrivals, arrivals[1:], strict=False)],
        prompt_tokens=usage.prompt_tokens if usage else 0,
        output_tokens=usage.completion_tokens if usage else len(arrivals),
        is_counted_by_usage=usage is not None,
    )


def summary(requests: Sequence[Measured], errors: Sequence[str], seconds: float) -> dict[str, Any]:
    """The figures of one round; times in milliseconds."""
    output = sum(one.output_tokens for one in requests)
    total = output + sum(one.prompt_tokens for one in requests)
    several = [one for one in requests if one.output_tokens > 1]
    return {
        "requests": len(requests),
        "errors": len(errors),
        "first_error": errors[0][:300] if errors else "",
        "seconds": seconds,
        "output_tokens": output,
        "prompt_tokens": total - output,
        "tokens_are_counted_by": "usage" if all(one.is_counted_by_usage for one in requests) else "frames",
        "requests_per_second": len(requests) / seconds,
        "output_tokens_per_second": output / seconds,
        "total_tokens_per_second": total / seconds,
        "ttft_ms": spread([one.ttft * 1e3 for one in requests]),
        "itl_ms": spread([gap * 1e3 for one in requests for gap in one.gaps]),
        "tpot_ms": spread([(one.e2e - one.ttft) * 1e3 / (one.output_tokens - 1) for one in several]),
        "e2e_ms": spread([one.e2e * 1e3 for one in requests]),
    }


async def closed_loop(
    client: LoadClient, path: str, bodies: Sequence[bytes], concurrency: int
) -> list[tuple[float, Answer]]:
    """`concurrency` requests at once, the next when one ends; (when due, answer) of each."""
    waiting = iter(bodies)
    done: list[tuple[float, Answer]] = []

    async def one_after_another() -> None:
        for one in waiting:
            due = monotonic()
            done.append((due, await client.post(path, one)))

    await asyncio.gather(*(one_after_another() for _ in range(min(concurrency, len(bodies)))))
    return done


async def open_loop(
    client: LoadClient, path: str, bodies: Sequence[bytes], starts: Sequence[float]
) -> list[tuple[float, Answer]]:
    """Each request at its own time, however many are still under way."""
    begin = monotonic()

    async def at(due: float, one: bytes) -> tuple[float, Answer]:
        await asyncio.sleep(max(0.0, due - monotonic()))
        return due, await client.post(path, one)

    return list(await asyncio.gather(*(at(begin + start, one) for start, one in zip(starts, bodies, strict=True))))


async def served_model(client: LoadClient) -> str:
    """The first model of /v1/models. Raises RuntimeError with what the server said."""
    answer = await client.get("/v1/models")
    if answer.error:
        raise RuntimeError(f"/v1/models: {answer.error}")
    try:
        return json.loads(answer.last_frame)["data"][0]["id"]
    except (ValueError, LookupError, TypeError):
        raise RuntimeError(f"/v1/models has no model: {answer.last_frame[:200]!r}") from None


class Run:
    """All rounds against one server, as the command line says."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.workload = workload_of(options)
        self._sampling = Sampling(options.temperature, not options.no_ignore_eos, options.min_tokens)
        self._client = LoadClient(
            Target.parse(options.url, options.api_key or ""),
            keeps_alive=not options.new_connections,
            timeout_seconds=options.timeout,
        )
        self._is_chat = options.endpoint == "chat"
        self._path = "/v1/chat/completions" if self._is_chat else "/v1/completions"
        self.model = options.model or ""

    async def all_rounds(self) -> list[dict[str, Any]]:
        """Raises RuntimeError when the server cannot be asked for its model."""
        try:
            return await self._all_rounds()
        finally:
            self._client.close()

    async def _all_rounds(self) -> list[dict[str, Any]]:
        self.model = self.model or await served_model(self._client)
        options = self._options
        if options.warmup:
            await closed_loop(self._client, self._path, self._bodies(-1)[: options.warmup], self.workload.concurrency)
        rounds = []
        for number in range(options.rounds):
            rounds.append(await self._round(number))
            if not options.quiet:
                print(_line(number, rounds[-1]), flush=True)
        return rounds

    async def _round(self, number: int) -> dict[str, Any]:
        bodies, options = self._bodies(number), self._options
        begin = monotonic()
        if options.rate:
            starts = poisson_starts(len(bodies), options.rate, options.seed + number)
            answers = await open_loop(self._client, self._path, bodies, starts)
        else:
            answers = await closed_loop(self._client, self._path, bodies, self.workload.concurrency)
        seconds = max(answer.ended for _, answer in answers) - begin
        good = [measured(answer, due) for due, answer in answers if not answer.error]
        return summary(good, [answer.error for _, answer in answers if answer.error], seconds)

    def _bodies(self, number: int) -> list[bytes]:
        options, seed = self._options, self._options.seed + 1000 * (number + 2)
        prompts: Sequence[str | list[int]]
        if self._is_chat or options.prompt == "text":
            prompts = text_prompts(self.workload, seed)
        else:
            prompts = id_prompts(self.workload, options.vocab_size, seed)
        length, is_stream = self.workload.output_len, not options.no_stream
        return [body(self.model, one, length, self._sampling, self._is_chat, is_stream) for one in prompts]


def _line(number: int, result: dict[str, Any]) -> str:
    error = f"  {result['errors']} errors: {result['first_error']}" if result["errors"] else ""
    return (
        f"round {number + 1}: {result['output_tokens_per_second']:.1f} output tokens/s, "
        f"ttft p50 {result['ttft_ms']['p50']:.1f} ms, itl p50 {result['itl_ms']['p50']:.2f} ms{error}"
    )


def report(workload: Workload, model: str, result: dict[str, Any]) -> str:
    """What a person reads at the end."""
    figures = [
        ("requests/s", result["requests_per_second"]),
        ("output tokens/s", result["output_tokens_per_second"]),
        ("total tokens/s", result["total_tokens_per_second"]),
        ("errors", result["errors"]),
    ]
    shares = ("mean", "p50", "p90", "p99", "max")
    names = {
        "ttft_ms": "time to first token",
        "itl_ms": "between frames",
        "tpot_ms": "per output token",
        "e2e_ms": "whole request",
    }
    times = [(name, *(result[key][share] for share in shares)) for key, name in names.items()]
    head = f"{workload.name} on {model}: {result['requests']} requests, {result['output_tokens']} output tokens"
    return "\n\n".join([head, table(("", "median of rounds"), figures), table(("ms", *shares), times)])


def workload_of(options: argparse.Namespace) -> Workload:
    """The preset with whatever else was given."""
    preset = PRESETS[options.workload] if options.workload else Workload()
    given = {name: value for name in Workload.__struct_fields__ if (value := getattr(options, name, None)) is not None}
    return msgspec.structs.replace(preset, **given)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="serving.py", description="Load against an OpenAI-compatible server.")
    add = made.add_argument
    add("--url", default="http://127.0.0.1:8000", help="server, with or without /v1 (default: %(default)s)")
    add("--model", help="model to ask for (default: the first that the server has)")
    add("--api-key", help="sent as a bearer token")
    add("--workload", choices=sorted(PRESETS), help="preset; the flags below change it")
    add("--concurrency", type=int, help="requests at once (closed loop)")
    add("--rate", type=float, help="requests a second, Poisson (open loop)")
    add("--num-requests", type=int, help="requests of a round")
    add("--input-len", type=int, help="tokens of a prompt, shared prefix included")
    add("--output-len", type=int, help="tokens of an answer")
    add("--shared-prefix-len", type=int, help="first tokens that all prompts of a round share")
    add("--endpoint", choices=("completions", "chat"), default="completions", help="(default: %(default)s)")
    add("--prompt", choices=("ids", "text"), default="ids", help="kind of prompt of completions (default: %(default)s)")
    add("--vocab-size", type=int, default=2000, help="prompt ids are below this (default: %(default)s)")
    add("--temperature", type=float, default=0.0, help="(default: %(default)s)")
    add("--no-ignore-eos", action="store_true", help="let the model end its answers")
    add("--min-tokens", action="store_true", help="also send min_tokens, for servers without ignore_eos")
    add("--no-stream", action="store_true", help="ask for whole answers")
    add("--new-connections", action="store_true", help="one connection a request, for servers that drop idle ones")
    add("--timeout", type=float, default=600.0, help="seconds for one request (default: %(default)s)")
    add("--rounds", type=int, default=3, help="of which medians are reported (default: %(default)s)")
    add("--warmup", type=int, default=4, help="requests before the first round (default: %(default)s)")
    add("--seed", type=int, default=0, help="of prompts and arrivals (default: %(default)s)")
    add("--label", default="", help="what is measured, for the record")
    add("--quiet", action="store_true", help="only the final table")
    add("--out", help="JSON file; a bare name goes to bench/results/")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    options = parser().parse_args(argv)
    try:
        run = Run(options)
        rounds = run_on_loop(run.all_rounds())
    except (RuntimeError, ValueError) as error:
        print(f"quire bench: {error}", file=sys.stderr)
        return 1
    result = medians(rounds)
    result["errors"] = sum(one["errors"] for one in rounds)
    print("\n" + report(run.workload, run.model, result))
    if options.out:
        settings = {"label": options.label, "model": run.model, "workload": msgspec.structs.asdict(run.workload)}
        settings |= {"rate": options.rate, "endpoint": options.endpoint, "rounds": options.rounds}
        print(f"\nwritten to {write(record('serving', {'medians': result, 'rounds': rounds}, settings), options.out)}")
    return 1 if result["errors"] or math.isnan(result["ttft_ms"]["p50"]) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
