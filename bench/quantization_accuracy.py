"""What quantised weights and an fp8 KV cache cost in accuracy: perplexity, and the error of logits against float32.

`python bench/quantization_accuracy.py [MODEL]` reads stories of the demo model's kind, or with --random as many random
ids, under float32, bfloat16 and int8 and fp8 of each. Knows the model runner, and no other process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from random import Random

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parent.parent))
sys.path.append(str(Path(__file__).resolve().parent.parent / "scripts"))

from demo_model_stories import story_text  # pyright: ignore[reportMissingImports]
from tokenizers import Tokenizer

from quire import kernels
from quire.services.worker.model_runner import ModelRunner
from quire.shared.messages import Configure, NewRow, Plan, SamplingParams, Slot

DEMO_MODEL = Path(__file__).resolve().parent.parent / "shared" / "demo_model"
_BLOCK_SIZE = 16
CASES = (
    ("float32", "none", "auto"),
    ("bfloat16", "none", "auto"),
    ("float32", "int8", "auto"),
    ("bfloat16", "int8", "auto"),
    ("float32", "fp8", "auto"),
    ("bfloat16", "fp8", "auto"),
    ("float32", "none", "fp8"),
    ("bfloat16", "fp8", "fp8"),
)
"""(dtype, quantization, kv_cache_dtype), what the others are compared with first."""


def logits_of(
    folder: Path, dtype: str, quantization: str, texts: list[list[int]], kv_cache_dtype: str = "auto"
) -> torch.Tensor:
    """float32 [sum of (length - 1), vocab_size]: what is thought of each token but the first, text after text."""
    runner = ModelRunner(folder, "cpu", dtype, quantization=quantization, kv_cache_dtype=kv_cache_dtype)
    longest = max(len(text) for text in texts)
    runner.configure(Configure(1, longest, longest + 1, _BLOCK_SIZE, None, 0.9))
    found: list[torch.Tensor] = []
    compute = runner.model.compute_logits

    def keeping(hidden: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        found.append(compute(hidden, dtype))
        return found[-1].clone()

    runner.model.compute_logits = keeping
    for step, text in enumerate(texts, 1):
        runner.step(_plan(step, text))
        found.pop()  # of the token that follows the text
    return torch.cat(found)


def _plan(step: int, text: list[int]) -> Plan:
    """The whole text in one step, in the one slot there is."""
    blocks = _bytes(range(-(-len(text) // _BLOCK_SIZE)))
    params = SamplingParams(temperature=0.0, prompt_logprobs=1)
    row = NewRow(Slot(0), _bytes(text), len(text), 0, blocks, params, 0)
    return Plan(step, [0] if step > 1 else [], [row], b"", b"", b"", _bytes([0]), _bytes([len(text)]), _bytes([0]))


def _bytes(values: Iterable[int]) -> bytes:
    return np.array(list(values), np.int32).tobytes()


def perplexity(logits: torch.Tensor, texts: list[list[int]]) -> float:
    targets = torch.tensor([token for text in texts for token in text[1:]])
    return float(torch.nn.functional.cross_entropy(logits.double(), targets).exp())


def relative_error(logits: torch.Tensor, exact: torch.Tensor) -> float:
    """Of logits less their mean, which no probability depends on; median over positions."""
    logits, exact = logits - logits.mean(1, keepdim=True), exact - exact.mean(1, keepdim=True)
    return float(((logits - exact).norm(dim=1) / exact.norm(dim=1)).median())


def agreement(logits: torch.Tensor, exact: torch.Tensor) -> float:
    """Share of positions with the same likeliest token."""
    return float((logits.argmax(1) == exact.argmax(1)).float().mean())


def stories(folder: Path, count: int, longest: int) -> list[list[int]]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return [tokenizer.encode(story_text(Random(900_000 + seed), 3)).ids[:longest] for seed in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=DEMO_MODEL)
    parser.add_argument("--random", type=int, metavar="VOCAB", help="random ids below this instead of stories")
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--longest", type=int, default=256)
    args = parser.parse_args()
    kernels.use("auto")
    if args.random:
        random = Random(0)
        texts = [[random.randrange(args.random) for _ in range(args.longest)] for _ in range(args.texts)]
    else:
        texts = stories(args.model, args.texts, args.longest)
    exact = None
    for dtype, quantization, kv_cache_dtype in CASES:
        logits = logits_of(args.model, dtype, quantization, texts, kv_cache_dtype)
        exact = logits if exact is None else exact
        print(
            f"{dtype:9} {quantization:5} KV {kv_cache_dtype:5} {len(logits)} tokens,"
            f" perplexity {perplexity(logits, texts):.4f},"
            f" relative error {relative_error(logits, exact):.5f}, same likeliest {agreement(logits, exact):.4f}"
        )


if __name__ == "__main__":
    main()
