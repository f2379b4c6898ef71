"""What is asked of a server: presets, prompts of exact lengths, and when each request starts.

The presets are those that Quire's figures are stated for. Prompts are a pure function of the seed;
no two rounds share any, so that a prefix cache helps only where a workload shares a prefix.
Knows nothing of connections.
"""

from __future__ import annotations

import random
from typing import Any

import msgspec
from msgspec import Struct

_TEXT = (
    "the one two red blue tree house water light stone river cloud green small large open close read write count "
    "time day night sun moon star wind rain fire earth hand foot door road ship bird fish horse apple bread table "
    "chair paper book page word line note song king queen child friend town field hill lake sea island map gold"
)
_WORDS = _TEXT.split()
_FIRST_ID = 300
"""Ids below are bytes and special tokens in most vocabularies."""


class Workload(Struct, frozen=True):
    """Lengths are in tokens (for text prompts: in short common words)."""

    name: str = "custom"
    concurrency: int = 16
    num_requests: int = 32
    input_len: int = 64
    """Of the whole prompt, the shared prefix included."""
    output_len: int = 128
    shared_prefix_len: int = 0


PRESETS = {
    "W1": Workload("W1", concurrency=16, num_requests=32, input_len=64, output_len=128),
    "W2": Workload("W2", concurrency=8, num_requests=16, input_len=1024, output_len=16),
    "W3": Workload("W3", concurrency=1, num_requests=2, input_len=64, output_len=128),
    "W4": Workload("W4", concurrency=16, num_requests=32, input_len=928, output_len=32, shared_prefix_len=896),
    "W5": Workload("W5", concurrency=64, num_requests=128, input_len=32, output_len=64),
}


class Sampling(Struct, frozen=True):
    """The same for every request of a run."""

    temperature: float = 0.0
    is_ignoring_eos: bool = True
    has_min_tokens: bool = False
    """For servers that know min_tokens and not ignore_eos."""


def id_prompts(workload: Workload, vocab_size: int, seed: int) -> list[list[int]]:
    """Random token ids of exact lengths."""
    low = min(_FIRST_ID, vocab_size // 2)
    chance = random.Random(seed)
    prefix = [chance.randrange(low, vocab_size) for _ in range(workload.shared_prefix_len)]
    own = max(1, workload.input_len - workload.shared_prefix_len)
    return [prefix + [chance.randrange(low, vocab_size) for _ in range(own)] for _ in range(workload.num_requests)]


def text_prompts(workload: Workload, seed: int) -> list[str]:
    """Random words, one a token in most vocabularies."""
    chance = random.Random(seed)
    prefix = [chance.choice(_WORDS) for _ in range(workload.shared_prefix_len)]
    own = max(1, workload.input_len - workload.shared_prefix_len)
    return [" ".join(prefix + [chance.choice(_WORDS) for _ in range(own)]) for _ in range(workload.num_requests)]


def body(
    model: str, prompt: str | list[int], output_len: int, sampling: Sampling, is_chat: bool, is_stream: bool
) -> bytes:
    """The JSON of one request. A list of ids is for completions only."""
    fields: dict[str, Any] = {"model": model, "max_tokens": output_len, "temperature": sampling.temperature}
    if is_chat:
        fields["messages"] = [{"role": "user", "content": prompt}]
    else:
        fields["prompt"] = prompt
    if sampling.is_ignoring_eos:
        fields["ignore_eos"] = True
    if sampling.has_min_tokens:
        fields["min_tokens"] = output_len
    if is_stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode(fields)


def poisson_starts(count: int, rate: float, seed: int) -> list[float]:
    """Seconds from the beginning at which each of `count` requests comes, at `rate` a second on average."""
    chance, now, starts = random.Random(seed), 0.0, []
    for _ in range(count):
        starts.append(now)
        now += chance.expovariate(rate)
    return starts
