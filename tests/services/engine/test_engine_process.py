"""Tests of the engine as a process, between a tokenizer's link and the checking fake worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from array import array
from pathlib import Path

import pytest
from engine_under_test import submit

from quire.shared.config import TokenizerConfig
from quire.shared.link import wait
from quire.shared.messages import (
    Abort,
    Accepted,
    History,
    Refused,
    Report,
    RequestId,
    TokenBatch,
    ToTokenizerFromEngine,
)
from quire.shared.neighbours import Below
from quire.shared.service import Service

ROOT = Path(__file__).parents[3]
DEADLINE_SECONDS = 30


class Deployment:
    """An engine and a fake worker as processes, and this test as the tokenizer above them."""

    def __init__(self, run_dir: Path, engine_flags=(), worker_flags=()) -> None:
        self.run_dir = run_dir
        fake = ["--num-blocks", "64", "--vocab-size", "500", "--longest", "128", "--eos-id", "1"]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.start("engine", "quire.services.engine", "--name", "engine-0", *engine_flags)
        self.start("worker", "quire.services.worker.fake", "--name", "worker-0-0", *fake, *worker_flags)
        self.reports: list[Report] = []
        self.messages: list[object] = []
        self.vanished: list[str] = []
        self.service = Service("tokenizer", TokenizerConfig(run_dir=str(run_dir)))
        self.server = self.service.listen(ToTokenizerFromEngine)
        self.below: Below[ToTokenizerFromEngine] = Below(
            self.service, "engine", ToTokenizerFromEngine, lambda name, client: None, self.vanished.append
        )

    def start(self, key: str, module: str, *flags: str) -> None:
        argv = [sys.executable, "-m", module, "--run-dir", str(self.run_dir), "--log-level", "error", *flags]
        self.processes[key] = subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def send(self, message) -> None:
        self.below.links["engine-0"].send(message)

    def until(self, is_done) -> None:
        """Hear the engine until `is_done()`; fails after DEADLINE_SECONDS."""
        end = time.monotonic() + DEADLINE_SECONDS
        while not is_done():
            assert time.monotonic() < end, f"not in {DEADLINE_SECONDS} s; heard {self.messages[-3:]}"
            self.below.poll()
            links = list(self.below.links.values())
            wait(links, 0.05)
            for link in links:
                while (message := link.receive()) is not None:
                    if isinstance(message, Report):
                        self.reports.append(message)
                    else:
                        self.messages.append(message)

    def until_ready(self) -> None:
        self.until(lambda: bool(self.reports) and self.reports[-1].state == "ready")

    def used_blocks(self) -> float:
        """By a report made after this call."""
        seen = len(self.reports)
        self.until(lambda: len(self.reports) > seen + 1)
        return self.reports[-1].samples['quire_kv_blocks{state="used"}']

    def tokens(self, request_id: int) -> list[int]:
        got: list[int] = []
        for batch in self.batches():
            ids = array("i")
            ids.frombytes(batch.token_ids)
            position = 0
            for row_id, count in zip(batch.request_ids, batch.counts, strict=True):
                if row_id == request_id:
                    got += ids[position : position + count]
                position += count
        return got

    def ends(self) -> dict[int, str]:
        return {b.request_ids[end.row]: end.reason for b in self.batches() for end in b.finished}

    def batches(self) -> list[TokenBatch]:
        return [message for message in self.messages if isinstance(message, TokenBatch)]

    def close(self) -> None:
        self.below.close()
        self.server.close()
        self.service.close()
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            process.wait(60)


@pytest.fixture
def deploy(tmp_path):
    deployments: list[Deployment] = []

    def start(*engine_flags: str, worker_flags=()) -> Deployment:
        deployment = Deployment(tmp_path / "run", engine_flags, worker_flags)
        deployments.append(deployment)
        return deployment

    yield start
    for deployment in deployments:
        deployment.close()


def test_requests_are_accepted_and_answered_and_leave_nothing(deploy):
    deployment = deploy("--check-invariants", "--block-size", "4")
    deployment.until_ready()
    card = deployment.reports[-1].card
    assert card is not None and card.vocab_size == 500 and card.max_model_len == 128
    for number in range(10):
        deployment.send(submit(number, range(2, 30 + number), max_tokens=20))
    deployment.until(lambda: len(deployment.ends()) == 10)
    accepted = [message for message in deployment.messages if isinstance(message, Accepted)]
    assert [message.request_id for message in accepted] == list(range(10))
    assert all(len(deployment.tokens(number)) == 20 for number in range(10))
    assert set(deployment.ends().values()) == {"length"}
    assert deployment.used_blocks() == 0
    assert deployment.reports[-1].samples["vllm:generation_tokens_total"] == 200
    assert deployment.reports[-1].steps > 0


def test_what_could_never_run_is_refused_with_the_value_and_the_limit(deploy):
    deployment = deploy()
    deployment.until_ready()
    deployment.send(submit(1, range(2, 120), max_tokens=20))
    deployment.send(submit(2, [2, 500], max_tokens=20))
    deployment.send(submit(3, [2, 3], max_tokens=20, stop_token_ids=[-1]))
    deployment.send(submit(4, [], max_tokens=20))
    deployment.send(submit(5, [2, 3], max_tokens=20, history=[History(b"\0\0\0", 0)]))
    deployment.until(lambda: len(deployment.messages) == 5)
    assert all(isinstance(message, Refused) and message.status == 400 for message in deployment.messages)
    texts = [message.message for message in deployment.messages if isinstance(message, Refused)]
    assert "118 tokens" in texts[0] and "128" in texts[0]
    assert "500" in texts[1] and "-1" in texts[2]


def test_beyond_the_limit_of_open_choices_requests_are_refused_not_queued(deploy):
    deployment = deploy("--max-waiting", "4", worker_flags=("--step-ms", "50"))
    deployment.until_ready()
    for number in range(3):
        deployment.send(submit(number, range(2, 10), max_tokens=5, n=2))
    deployment.until(lambda: len(deployment.ends()) == 2)
    refused = [message for message in deployment.messages if isinstance(message, Refused)]
    assert [(message.request_id, message.status) for message in refused] == [(2, 429)]
    assert refused[0].retry_after_seconds
    deployment.send(submit(9, range(2, 10), max_tokens=5, n=5))  # no waiting makes room for these
    deployment.until(lambda: sum(isinstance(message, Refused) for message in deployment.messages) == 2)
    never = [message for message in deployment.messages if isinstance(message, Refused)][1]
    assert (never.request_id, never.status) == (9, 400) and "n is 5; --max-waiting allows 4" in never.message


def test_an_abort_frees_the_blocks_and_sends_nothing_more(deploy):
    deployment = deploy(worker_flags=("--step-ms", "20"))
    deployment.until_ready()
    deployment.send(submit(1, range(2, 10), max_tokens=100))
    deployment.until(lambda: len(deployment.tokens(1)) > 3)
    deployment.send(Abort(RequestId(1), None, "client_gone"))
    assert deployment.used_blocks() == 0
    count = len(deployment.tokens(1))
    deployment.used_blocks()
    assert len(deployment.tokens(1)) == count and not deployment.ends()


def test_a_vanished_tokenizers_requests_are_aborted(deploy):
    deployment = deploy(worker_flags=("--step-ms", "20"))
    deployment.until_ready()
    deployment.send(submit(1, range(2, 10), max_tokens=100))
    deployment.until(lambda: len(deployment.tokens(1)) > 3)
    deployment.below.close()
    deployment.service.close()
    deployment.service = Service("tokenizer", TokenizerConfig(run_dir=str(deployment.run_dir), name="tokenizer-9"))
    deployment.below = Below(
        deployment.service, "engine", ToTokenizerFromEngine, lambda name, client: None, deployment.vanished.append
    )
    deployment.reports.clear()
    deployment.until(lambda: bool(deployment.reports))
    assert deployment.used_blocks() == 0


def test_a_killed_worker_lets_every_request_go_and_a_new_one_serves(deploy):
    deployment = deploy(worker_flags=("--step-ms", "20"))
    deployment.until_ready()
    for number in range(3):
        deployment.send(submit(number, range(2, 10), max_tokens=100))
    deployment.until(lambda: len(deployment.tokens(2)) > 3)
    worker = deployment.processes["worker"]
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    deployment.until(lambda: len(deployment.ends()) == 3)
    assert set(deployment.ends().values()) == {"lost"}
    deployment.until(lambda: deployment.reports[-1].state == "starting")
    deployment.messages.clear()
    deployment.send(submit(7, range(2, 10), max_tokens=10))
    deployment.until(lambda: bool(deployment.messages))
    refused = deployment.messages[0]
    assert isinstance(refused, Refused) and refused.status == 503
    fake = ("--num-blocks", "64", "--vocab-size", "500", "--longest", "128", "--eos-id", "1")
    deployment.start("worker", "quire.services.worker.fake", "--name", "worker-0-0", *fake)
    deployment.until(lambda: deployment.reports[-1].state == "ready")
    deployment.send(submit(8, range(2, 10), max_tokens=10))
    deployment.until(lambda: 8 in deployment.ends())
    assert deployment.ends()[8] == "length"


def test_sigterm_lets_what_is_open_go_elsewhere(deploy):
    deployment = deploy(worker_flags=("--step-ms", "20"))
    deployment.until_ready()
    deployment.send(submit(1, range(2, 10), max_tokens=100, n=2))
    deployment.until(lambda: len(deployment.tokens(1)) > 3)
    engine = deployment.processes["engine"]
    engine.terminate()
    deployment.until(lambda: deployment.ends() == {1: "moved"})
    assert engine.wait(60) == 0
    deployment.until(lambda: deployment.vanished == ["engine-0"])
