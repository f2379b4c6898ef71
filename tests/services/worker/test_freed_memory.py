from __future__ import annotations

import ctypes
import resource
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from plans import Driver

from quire.services.worker.freed_memory import keep_freed_memory
from quire.services.worker.model_runner import ModelRunner
from quire.shared.messages import Configure
from quire.shared.model_files import DEMO_MODEL

pytestmark = pytest.mark.skipif(not keep_freed_memory(False), reason="the C library has no mallopt")
NUM_TOKENS = 1024


def faults_of_a_step(driver: Driver, slot: int) -> int:
    row = driver.row(slot, [token % 2048 for token in range(NUM_TOKENS)])
    plan = driver.plan([(row, NUM_TOKENS)])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    driver.runner.step(plan)
    count = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    driver.preempt(row)
    return count


def test_a_long_chunk_takes_no_new_memory_once_one_has_been_computed():
    driver = Driver(ModelRunner(DEMO_MODEL, "cpu", threads=1), budget=NUM_TOKENS, max_model_len=NUM_TOKENS + 8)
    faults_of_a_step(driver, 0), faults_of_a_step(driver, 0)
    kept = min(faults_of_a_step(driver, 0) for _ in range(3))
    assert kept < 200
    ctypes.CDLL(None).malloc_trim(0)
    given_back = faults_of_a_step(driver, 0)
    assert given_back > 10 * (kept + 10), "the test no longer sees what it is about"


def test_a_cache_goes_back_as_a_whole_when_another_configuration_comes():
    runner = ModelRunner(DEMO_MODEL, "cpu", threads=1)
    size = 512 << 20
    runner.configure(Configure(8, 256, 128, 16, size, 0.9))
    before = mapped_bytes()
    for _ in range(3):
        runner.configure(Configure(8, 256, 128, 16, size, 0.9))
    assert mapped_bytes() - before < size


def mapped_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
