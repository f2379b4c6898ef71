"""What structured output costs: the masks of a step, and the throughput of constrained streams beside free ones.

`python bench/structured.py --model FOLDER`. Masks are measured in this process, streams on the whole chain without
HTTP, free and constrained by turns. Constrained streams write a JSON array that does not end before they do, so that
both give as many tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent))

from bench.recording import medians, record, spread, table, write
from bench.reports import histogram_percentile, samples_of
from bench.response import monotonic
from quire.services.engine.grammars import Facts, Guides, Table
from quire.services.engine.masks import MaskBuilder
from quire.services.engine.request import Choice, Request
from quire.services.engine.step import Row, Step
from quire.services.launcher.llm import LLM, LLMError, SamplingParams, StructuredOutputs
from quire.shared.messages import Grammar, RequestId, Submit
from quire.shared.messages import SamplingParams as ResolvedParams
from quire.shared.model_files import ModelFilesError, eos_token_ids, find_model, read_model_config

_ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 24},
        "size": {"type": "integer", "minimum": 0, "maximum": 10_000},
        "colour": {"enum": ["red", "green", "blue"]},
    },
    "required": ["name", "size", "colour"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": _ITEM, "minItems": 2000, "maxItems": 2000}
_STEPS = 200
_COSTS = (("masks", "quire_masks_seconds", "engine-0"), ("wait", "quire_masks_wait_seconds", "worker-0-0"))
_REPORTED_SECONDS = 1.5
"""After which a service has reported what it did before."""


def measure_masks(folder: Path, num_rows: int) -> dict[str, Any]:
    """Milliseconds of advancing every row's grammar and making a step's masks, rows drawing what comes first."""
    vocab_size = read_model_config(folder).vocab_size
    begin = monotonic()
    tokens = Table((folder / "tokenizer.json").read_bytes(), Facts(vocab_size, tuple(eos_token_ids(folder))))
    table_ms = (monotonic() - begin) * 1e3
    text = json.dumps({"grammars": [{"json_schema": {**SCHEMA, "x-guidance": {"whitespace_flexible": False}}}]})
    grammar = Grammar(text, "structured_outputs")
    begin = monotonic()
    compiled = tokens.compiled(grammar)
    compile_ms = (monotonic() - begin) * 1e3
    choices = [_choice(number, Guides(compiled, grammar, tokens, _submit(number))) for number in range(num_rows)]
    step = Step([Row(choice, 1, 1, True) for choice in choices], [], [])
    builder = MaskBuilder(vocab_size)
    masks_ms, advance_ms = [], []
    for number in range(_STEPS):
        begin = monotonic()
        masks, failed = builder.build(number, step)
        masks_ms.append((monotonic() - begin) * 1e3)
        if failed:
            raise RuntimeError("a grammar without an end came to one")
        size = len(masks.bits) // num_rows
        drawn = [_draw(masks.bits[row * size : (row + 1) * size], number + row) for row in range(num_rows)]
        begin = monotonic()
        for choice, token in zip(choices, drawn, strict=True):
            if choice.guide is not None:
                choice.guide.advance(token)
        advance_ms.append((monotonic() - begin) * 1e3)
    return {
        "table_ms": table_ms,
        "compile_ms": compile_ms,
        "masks_ms": spread(masks_ms),
        "advance_ms": spread(advance_ms),
    }


def _submit(number: int) -> Submit:
    return Submit(RequestId(number), bytes(4), 1, ResolvedParams(max_tokens=10_000), 0, 0.0)


def _choice(number: int, guides: Guides) -> Choice:
    return Choice(Request("bench", _submit(number), 0.0, guides), 0, (0.0,), b"")


def _draw(bits: bytes, number: int) -> int:
    """One of the first allowed tokens: deterministic, and not always the same."""
    packed = int.from_bytes(bits, "little")
    for _ in range(number % 7):
        rest = packed & (packed - 1)
        packed = rest or packed
    return (packed & -packed).bit_length() - 1


def measure_streams(llm: LLM, num_streams: int, output_len: int, outputs: StructuredOutputs | None) -> float:
    """Output tokens a second. Raises RuntimeError when a stream is not answered in full."""
    params = [
        SamplingParams(temperature=1.0, seed=number, max_tokens=output_len, ignore_eos=True, structured_outputs=outputs)
        for number in range(num_streams)
    ]
    begin = monotonic()
    found = llm.generate(["Once upon a time"] * num_streams, params, progress=False)
    seconds = monotonic() - begin
    for output in found:
        if output.error or len(output.token_ids) != output_len:
            raise RuntimeError(f"a stream ended after {len(output.token_ids)} tokens: {output.error}")
    return num_streams * output_len / seconds


def measure_rounds(llm: LLM, num_streams: int, output_len: int, num_rounds: int) -> list[dict[str, float]]:
    """Free and constrained by turns."""
    kinds = {"free": None, "constrained": StructuredOutputs(json=SCHEMA)}
    for outputs in kinds.values():
        measure_streams(llm, num_streams, 4, outputs)
    rounds = []
    for number in range(num_rounds):
        order = list(kinds) if number % 2 == 0 else list(reversed(kinds))
        found = {kind: measure_streams(llm, num_streams, output_len, kinds[kind]) for kind in order}
        rounds.append({**found, "share": found["constrained"] / found["free"]})
    return rounds


def step_costs(llm: LLM) -> dict[str, dict[str, float]]:
    """Milliseconds a step of the streams so far, by the services' own metrics.

    masks: making them, in the engine, while the workers compute. wait: of the workers, their logits being there.
    """
    time.sleep(_REPORTED_SECONDS)
    found = {}
    for what, family, name in _COSTS:
        samples = samples_of(llm.run_dir, name)
        shares = {f"p{share}": 1e3 * histogram_percentile(samples, family, share) for share in (50, 90, 99)}
        count = samples.get(f"{family}_count", 0.0)
        found[what] = {"mean": 1e3 * samples.get(f"{family}_sum", 0.0) / max(count, 1.0), **shares, "steps": count}
    return found


def main(argv: Sequence[str] | None = None) -> int:
    made = argparse.ArgumentParser(prog="structured.py", description="Measure what structured output costs.")
    made.add_argument("--model", help="checkpoint folder; the demo model if absent")
    made.add_argument("--streams", type=int, default=32)
    made.add_argument("--output-len", type=int, default=64)
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--mask-rows", type=int, nargs="*", default=[1, 32, 256])
    made.add_argument("--out", help="JSON file; a bare name goes to bench/results")
    options = made.parse_args(argv)
    try:
        folder = find_model(options.model)
        masks = {str(rows): measure_masks(folder, rows) for rows in options.mask_rows}
        with LLM(options.model, max_num_seqs=options.streams) as llm:
            rounds = measure_rounds(llm, options.streams, options.output_len, options.rounds)
            costs = step_costs(llm)
    except (ModelFilesError, LLMError, OSError, RuntimeError) as error:
        print(f"quire bench: {error}", file=sys.stderr)
        return 1
    found = medians(rounds)
    print(
        table(
            ["rows", "masks p50 ms", "p99 ms", "advance p50 ms", "compile ms", "table ms"],
            [
                [
                    rows,
                    of["masks_ms"]["p50"],
                    of["masks_ms"]["p99"],
                    of["advance_ms"]["p50"],
                    of["compile_ms"],
                    of["table_ms"],
                ]
                for rows, of in masks.items()
            ],
        )
    )
    print()
    print(
        table(
            ["a constrained step, ms", "mean", "p50", "p90", "p99", "steps"],
            [[what, *(of[name] for name in ("mean", "p50", "p90", "p99", "steps"))] for what, of in costs.items()],
        )
    )
    print(f"\n{options.streams} streams: {found['free']:,.0f} tokens/s free, {found['constrained']:,.0f} constrained,")
    print(f"a share of {found['share']:.2f} (median of {options.rounds} rounds)")
    if options.out:
        settings = {name: value for name, value in vars(options).items() if name != "out"}
        results = {"masks": masks, "steps": costs, "rounds": rounds, "medians": found}
        write(record("structured", results, settings), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
