"""Masks are made while the logits are computed: by the order of events, on either runner, eager and replayed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from checkpoints import make_checkpoint
from plans import Driver, Row, ids_of, int32

from quire.services.worker import host_runner
from quire.services.worker.device_step import DeviceStep
from quire.services.worker.errors import StepAbandoned
from quire.services.worker.host_runner import HostRunner
from quire.services.worker.model_runner import ModelRunner
from quire.shared.messages import Masks

VOCAB = 384
KINDS = {
    "host": {"runner": "host"},
    "eager": {"runner": "device", "enforce_eager": True},
    "graphs": {"runner": "device"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_checkpoint("qwen3", tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def events(monkeypatch) -> list[Any]:
    """What happens, in order: forward, sample, and what a test adds."""
    found: list[Any] = []

    def noted(owner: Any, name: str, event: str) -> None:
        function = getattr(owner, name)

        def call(*given: Any) -> Any:
            found.append(event)
            return function(*given)

        monkeypatch.setattr(owner, name, call)

    noted(HostRunner, "_forward", "forward")
    noted(host_runner, "sample_rows", "sample")
    noted(DeviceStep, "forward", "forward")
    noted(DeviceStep, "sample", "sample")
    return found


@pytest.fixture(params=KINDS)
def driver(request, folder, events) -> Driver:
    runner = ModelRunner(folder, "cpu", "float32", threads=1, **KINDS[request.param])
    made = Driver(runner)
    events.clear()
    return made


def only(token: int, step: int) -> Masks:
    """A mask of the step's one row."""
    bits = np.zeros(VOCAB, np.uint8)
    bits[token] = 1
    return Masks(step, int32(0), np.packbits(bits, bitorder="little").tobytes())


def masked(driver: Driver, row: Row) -> Any:
    return msgspec.structs.replace(driver.plan([(row, row.num_missing)]), awaits_masks=True)


def test_the_forward_has_begun_when_masks_are_waited_for_and_the_draw_has_not(driver, events):
    row = driver.row(0, [5, 6, 7, 8, 9])
    for token in (30, 31, 32):
        plan = masked(driver, row)

        def late(step: int, token: int = token) -> Masks:
            events.append("masks")
            return only(token, step)

        result = driver.runner.step(plan, late)
        driver.commit([(row, row.num_missing)], result)
    assert events == ["forward", "masks", "sample"] * 3
    assert row.output == [30, 31, 32]


def test_while_masks_are_waited_for_the_answer_to_the_step_before_can_be_had(driver, events):
    """The masks of step k + 1 depend on it, and its forward is under way."""
    row = driver.row(0, [5, 6, 7, 8, 9])
    row.blocks = driver.take_blocks(3)
    runner, collected = driver.runner, []
    runner.submit(masked(driver, row), lambda step: only(30, step))
    row.num_computed, row.ids = row.num_missing, [*row.ids, -1]  # a token that nobody knows yet

    def masks(step: int) -> Masks:
        while not collected:
            collected.extend(runner.collect())
        events.append("masks")
        return only(1 + ids_of(collected[0].token_ids)[0], step)

    runner.submit(masked(driver, row), masks)
    while len(collected) < 2:
        collected += runner.collect()
    assert [ids_of(result.token_ids) for result in collected] == [[30], [31]]
    assert events == ["forward", "sample", "forward", "masks", "sample"]


def test_after_a_step_whose_masks_never_came_a_new_configuration_starts_afresh(driver):
    row = driver.row(0, [5, 6, 7, 8, 9])

    def never(step: int) -> Masks:
        raise StepAbandoned("the engine started afresh")

    with pytest.raises(StepAbandoned):
        driver.runner.submit(masked(driver, row), never)
    again = Driver(driver.runner)
    first, second = again.row(0, [5, 6, 7, 8, 9]), again.row(3, [5, 6, 7, 8, 9])
    again.run([first, second], 6)
    assert first.output == second.output
