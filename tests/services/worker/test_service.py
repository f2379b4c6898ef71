"""The worker as a process, spoken to over its link as the engine does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import quire.shared
from quire.shared.link import Client, wait
from quire.shared.messages import (
    PROTOCOL,
    Configure,
    FromWorker,
    Hello,
    NewRow,
    Plan,
    Report,
    SamplingParams,
    Slot,
    StepResult,
    WorkerReady,
)
from quire.shared.run_directory import RunDirectory

ROOT = Path(quire.shared.__path__[0]).resolve().parent
CONFIGURE = Configure(4, 64, 128, 16, None, 0.9)


def int32(*values: int) -> bytes:
    return np.array(values, np.int32).tobytes()


class Process:
    """A worker-0-0 and the link of an engine to it."""

    def __init__(self, run_dir: Path, *flags: str) -> None:
        command = [sys.executable, "-m", "quire.services.worker", "--run-dir", str(run_dir), "--name", "worker-0-0"]
        self.process = subprocess.Popen(
            [*command, "--threads", "1", *flags], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        self.directory = RunDirectory(run_dir)
        self.link: Client[FromWorker] | None = None
        self.reports: list[Report] = []

    def dial(self) -> Client[FromWorker]:
        deadline = time.monotonic() + 60
        while (entry := self.directory.entry("worker-0-0")) is None or not entry.address:
            assert time.monotonic() < deadline and self.process.poll() is None
            time.sleep(0.005)
        self.link = Client(entry.address, "engine-0", FromWorker)
        self.link.send(Hello("engine-0", PROTOCOL))
        return self.link

    def hear(self, kind: type):
        """The next message of a kind; reports are kept."""
        assert self.link is not None
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            # Of a peer in no run directory it is known by its words alone that it lives.
            self.link.send(Hello("engine-0", PROTOCOL))
            wait([self.link], 0.1)
            while (message := self.link.receive()) is not None:
                if isinstance(message, Report):
                    self.reports.append(message)
                if isinstance(message, kind):
                    return message
        raise AssertionError(f"no {kind.__name__}")

    def step(self, plan: Plan) -> StepResult:
        assert self.link is not None
        self.link.send(plan)
        return self.hear(StepResult)

    def close(self) -> None:
        if self.link is not None:
            self.link.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        self.directory.close()


@pytest.fixture
def start(tmp_path) -> Iterator:
    started: list[Process] = []

    def start(*flags: str) -> Process:
        started.append(Process(tmp_path / "run", *flags))
        return started[-1]

    yield start
    for process in started:
        process.close()


def first_plan(length: int) -> Plan:
    row = NewRow(Slot(0), int32(*range(20, 20 + length)), length, 0, int32(3, 1, 4), SamplingParams(temperature=0.0), 0)
    return Plan(1, [], [row], b"", b"", b"", int32(0), int32(length), int32(0))


def next_plan(step: int, computed: int) -> Plan:
    return Plan(step, [], [], b"", b"", b"", int32(0), int32(1), int32(computed))


@pytest.mark.parametrize("runner", ["host", "device"])
def test_it_loads_says_so_and_carries_out_plans(start, runner):
    worker = start("--runner", runner)
    link = worker.dial()
    link.send(CONFIGURE)
    ready = worker.hear(WorkerReady)
    states = [report.detail for report in worker.reports]
    assert states[0] in ("starting", "looking for the model", "importing torch", "loading weights")
    assert all(report.state == "starting" for report in worker.reports)
    assert (ready.max_model_len, ready.vocab_size, ready.device) == (128, 2048, "cpu")
    report = worker.hear(Report)
    assert report.state == "ready"
    beside = ["batch", "graphs"] if runner == "device" else []
    assert [what for what, _ in report.memory_plan] == ["weights", "workspace", *beside, "kv cache"]
    tokens = [worker.step(first_plan(12)).token_ids]
    # Two plans in flight: the second goes out before the first is answered.
    for plan in (next_plan(2, 12), next_plan(3, 13)):
        link.send(plan)
    tokens += [worker.hear(StepResult).token_ids for _ in range(2)]
    assert all(len(token) == 4 for token in tokens)
    link.send(CONFIGURE)
    worker.hear(WorkerReady)
    assert [worker.step(plan).token_ids for plan in (first_plan(12), next_plan(2, 12), next_plan(3, 13))] == tokens
    while (report := worker.hear(Report)).steps == 0:
        assert report.state in ("starting", "ready")
    assert report.samples.get("quire_worker_host_seconds_count", 0) == (report.steps if runner == "device" else 0)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(60) == 0
    assert worker.directory.entry("worker-0-0") is None


def test_a_term_while_it_loads_ends_it_with_zero(start):
    worker = start()
    worker.dial()
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(60) == 0


def test_a_model_that_cannot_be_is_told_in_one_line(start, tmp_path):
    (tmp_path / "config.json").write_text('{"architectures": ["OddForCausalLM"]}')
    worker = start("--model", str(tmp_path))
    _, said = worker.process.communicate(timeout=60)
    assert worker.process.returncode == 1
    last = said.strip().splitlines()[-1]
    assert "architecture OddForCausalLM" in last and "supported are LlamaForCausalLM" in last
    assert "Traceback" not in said


def test_memory_that_does_not_suffice_is_told_to_the_engine(start):
    worker = start()
    worker.dial().send(Configure(4, 64, 4096, 16, 1 << 16, 0.9))
    while (report := worker.hear(Report)).state != "failed":
        pass
    assert "raise --kv-cache-memory" in report.detail
    assert worker.process.wait(60) == 1


def test_a_broken_plan_ends_it_with_the_cause(start):
    worker = start()
    link = worker.dial()
    link.send(CONFIGURE)
    worker.hear(WorkerReady)
    link.send(next_plan(1, 5))
    while (report := worker.hear(Report)).state != "failed":
        pass
    assert "slot 0" in report.detail
    assert worker.process.wait(60) == 1


def test_torch_is_not_imported_by_what_says_that_it_will_be():
    code = "import sys, quire.services.worker.service; assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
