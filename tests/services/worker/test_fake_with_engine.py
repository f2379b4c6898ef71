"""The engine process against the worker that checks every plan: every choice gets exactly its own tokens.

Requests share prefixes, have several choices, are aborted, and run in caches too small for them.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import quire.shared
from quire.shared.config import TokenizerConfig
from quire.shared.link import Client, wait
from quire.shared.messages import (
    Abort,
    Accepted,
    Report,
    RequestId,
    SamplingParams,
    Submit,
    TokenBatch,
    ToTokenizerFromEngine,
)
from quire.shared.neighbours import Below
from quire.shared.service import Service

ROOT = Path(quire.shared.__path__[0]).resolve().parent
EOS, VOCAB_SIZE, EOS_PROBABILITY = 2, 500, 0.01
POOL = [token_id for token_id in range(VOCAB_SIZE) if token_id != EOS]
MULTIPLIER, WORD = 0x9E3779B97F4A7C15, 1 << 64
WITHIN_SECONDS = 60.0


def expected(prompt: list[int], sampling: SamplingParams, choice: int) -> list[int]:
    """What the fake worker answers, one token after another, by plain integers."""
    history = 0
    for token_id in prompt:
        history = (history * MULTIPLIER + token_id + 1) % WORD
    seed = (sampling.seed + choice) % WORD if sampling.temperature > 0 else 0
    outputs: list[int] = []
    while len(outputs) < (sampling.max_tokens or 0):
        word = (history + seed * MULTIPLIER) % WORD
        word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % WORD
        word = (word ^ word >> 27) * 0x94D049BB133111EB % WORD
        word ^= word >> 31
        is_end = (word & 0xFFFF) < EOS_PROBABILITY * 65536 and len(outputs) >= sampling.min_tokens
        outputs.append(EOS if is_end else POOL[(word >> 20) % len(POOL)])
        history = (history * MULTIPLIER + outputs[-1] + 1) % WORD
        if is_end and not sampling.ignore_eos:
            break
    return outputs


class FakeTokenizer:
    """In a tokenizer's place above the engine: submits, aborts, gathers what each choice gets."""

    def __init__(self, run_dir: Path) -> None:
        self._service = Service("tokenizer", TokenizerConfig(run_dir=str(run_dir), name="tokenizer-0"))
        self._links: dict[str, Client[Any]] = {}
        self._below: Below[Any] = Below(
            self._service, "engine", ToTokenizerFromEngine, self._links.__setitem__, self._links.__delitem__
        )
        self.reports: list[Report] = []
        self.accepted: set[int] = set()
        self.outputs: dict[tuple[int, int], list[int]] = {}
        self.ends: dict[tuple[int, int], list[str]] = {}

    def send(self, message: Submit | Abort) -> None:
        self._links["engine-0"].send(message)

    def until(self, is_so: Callable[[], bool], between: Callable[[], None] = lambda: None) -> None:
        """Receive until it is so. Fails after a minute, or when the engine is gone."""
        end = time.monotonic() + WITHIN_SECONDS
        while not is_so():
            self._below.poll()
            assert time.monotonic() < end, "it did not come to be"
            assert self._links or not self.reports, "the engine is gone"
            between()
            for link in list(self._links.values()):
                wait([link], 0.02)
                while (message := link.receive()) is not None:
                    self._receive(message)

    def _receive(self, message: Any) -> None:
        match message:
            case Report():
                self._below.hear("engine-0", message)
                self.reports.append(message)
            case Accepted():
                self.accepted.add(message.request_id)
            case TokenBatch():
                ids, start = np.frombuffer(message.token_ids, np.int32).tolist(), 0
                keys = list(zip(message.request_ids, message.choices, strict=True))
                for key, count in zip(keys, message.counts, strict=True):
                    assert key not in self.ends or not count, "tokens came after the end"
                    self.outputs.setdefault(key, []).extend(ids[start : start + count])
                    start += count
                for finished in message.finished:
                    self.ends.setdefault(keys[finished.row], []).append(finished.reason)
            case _:
                raise AssertionError(f"unexpected: {message}")

    def close(self) -> None:
        self._below.close()
        self._service.close()


@contextmanager
def engine_and_worker(run_dir: Path, num_blocks: int, budget: int, depth: int) -> Iterator[FakeTokenizer]:
    run_dir.mkdir(mode=0o700)
    worker = ["--num-blocks", num_blocks, "--vocab-size", VOCAB_SIZE, "--longest", 400, "--eos-id", EOS]
    worker += ["--eos-probability", EOS_PROBABILITY]
    engine = ["--max-num-seqs", 16, "--max-num-batched-tokens", budget, "--overlap-depth", depth]
    engine += ["--check-invariants", "--max-waiting", 4096]
    processes = []
    tokenizer = FakeTokenizer(run_dir)
    try:
        for module, name, flags in (("worker.fake", "worker-0-0", worker), ("engine", "engine-0", engine)):
            command = [sys.executable, "-m", f"quire.services.{module}", "--run-dir", str(run_dir), "--name", name]
            command += ["--parent-pid", str(os.getpid()), *map(str, flags)]
            processes.append(subprocess.Popen(command, cwd=ROOT))
        tokenizer.until(lambda: any(report.state == "ready" for report in tokenizer.reports))
        yield tokenizer
        assert [process.poll() for process in processes] == [None, None]
    finally:
        tokenizer.close()
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


def random_submits(chance: random.Random, count: int) -> list[Submit]:
    prefixes = [[chance.randrange(VOCAB_SIZE) for _ in range(150)] for _ in range(4)]
    made = []
    for number in range(count):
        shared = chance.choice(prefixes)[: chance.randrange(150)] if chance.random() < 0.7 else []
        prompt = shared + [chance.randrange(VOCAB_SIZE) for _ in range(chance.randrange(1, 60))]
        sampling = SamplingParams(
            max_tokens=chance.randrange(1, 100),
            min_tokens=chance.randrange(20),
            temperature=chance.choice([0.0, 1.0]),
            seed=chance.randrange(WORD),
            ignore_eos=chance.random() < 0.5,
        )
        ids = np.array(prompt, np.int32).tobytes()
        made.append(Submit(RequestId(number), ids, chance.choice([1, 1, 2, 4]), sampling, 0, time.time()))
    return made


@pytest.mark.parametrize(("num_blocks", "budget", "depth"), [(4096, 512, 2), (60, 64, 2), (60, 16, 1), (30, 64, 2)])
def test_every_choice_gets_its_own_tokens_and_every_block_comes_back(
    tmp_path: Path, num_blocks: int, budget: int, depth: int
) -> None:
    chance = random.Random(num_blocks * 1000 + budget)
    submits: dict[int, Submit] = {submit.request_id: submit for submit in random_submits(chance, 100)}
    aborted: set[int] = set()
    with engine_and_worker(tmp_path / "run", num_blocks, budget, depth) as tokenizer:
        for submit in submits.values():
            tokenizer.send(submit)

        def abort_some() -> None:
            request_id = RequestId(chance.randrange(100))
            if chance.random() < 0.1 and request_id not in aborted:
                aborted.add(request_id)
                tokenizer.send(Abort(request_id, None, "client_gone"))

        def open_choices() -> set[Any]:
            kept = [submit for submit in submits.values() if submit.request_id not in aborted]
            return {
                (submit.request_id, choice) for submit in kept for choice in range(submit.n)
            } - tokenizer.ends.keys()

        tokenizer.until(lambda: not open_choices(), abort_some)
        seen = len(tokenizer.reports)
        free = 'quire_kv_blocks{state="free"}'
        tokenizer.until(lambda: any(report.samples[free] == num_blocks for report in tokenizer.reports[seen:]))
    assert tokenizer.accepted == submits.keys() and len(aborted) < 60
    assert all(len(reasons) == 1 for reasons in tokenizer.ends.values())
    for submit in submits.values():
        prompt = np.frombuffer(submit.prompt_ids, np.int32).tolist()
        for choice in range(submit.n):
            if submit.request_id not in aborted:
                outputs = expected(prompt, submit.sampling, choice)
                is_stopped = outputs[-1] == EOS and not submit.sampling.ignore_eos
                assert tokenizer.outputs[submit.request_id, choice] == outputs
                assert tokenizer.ends[submit.request_id, choice] == ["stop" if is_stopped else "length"]
