"""A block that holds what is not a number ends the request that computed it, and reaches no other's answer."""

from __future__ import annotations

import random
from array import array

import msgspec
import pytest
from engine_under_test import EngineUnderTest, alone, submit

from quire.services.worker import fake_rows
from quire.shared.messages import Plan, StepResult

BLOCK_SIZE = 4


def prompt(seed: int, length: int) -> list[int]:
    generator = random.Random(seed)
    return [generator.randrange(2, 500) for _ in range(length)]


class SpoilingRows:
    """Fake rows whose logits are no numbers where a block that is read holds none; what is written then holds none.

    `is_spoiling` decides, by slot and the tokens it is about to compute, whether a row begins that.
    """

    def __init__(self, num_blocks: int, is_spoiling) -> None:
        limits = fake_rows.Limits(8, 64, 128, BLOCK_SIZE, num_blocks)
        self._rows = fake_rows.FakeRows(limits, fake_rows.Tokens(pool=tuple(range(2, 500)), eos_token_ids=(1,)))
        self._is_spoiling = is_spoiling
        self._tables: dict[int, list[int]] = {}
        self._token_ids: dict[int, list[int]] = {}
        self.spoilt: set[int] = set()
        self.num_failures = 0

    def apply(self, plan: Plan) -> StepResult:
        result = self._rows.apply(plan)
        for row in plan.new_rows:
            self._tables[row.slot] = list(ints(row.block_ids))
            self._token_ids[row.slot] = list(ints(row.token_ids))
        for slot, block in zip(ints(plan.added_block_slots), ints(plan.added_block_ids), strict=True):
            self._tables[slot].append(block)
        copies = ints(plan.copies)
        for source, target in zip(copies[::2], copies[1::2], strict=True):
            (self.spoilt.add if source in self.spoilt else self.spoilt.discard)(target)
        failed, sampled = [], -1
        columns = (ints(plan.slots), ints(plan.num_scheduled), ints(plan.num_computed))
        for slot, count, before in zip(*columns, strict=True):
            is_bad = self._compute(slot, before, before + count)
            if before + count >= len(self._token_ids[slot]):
                self._token_ids[slot].append(0)
                sampled += 1
                if is_bad:
                    failed.append(sampled)
        self.num_failures += len(failed)
        return msgspec.structs.replace(result, failed_rows=failed)

    def _compute(self, slot: int, before: int, after: int) -> bool:
        """Whether what a row computes is spoilt."""
        read = self._tables[slot][: -(-before // BLOCK_SIZE)]
        written = self._tables[slot][before // BLOCK_SIZE : -(-after // BLOCK_SIZE)]
        is_bad = not self.spoilt.isdisjoint(read) or self._is_spoiling(self._token_ids[slot], before, after)
        for block in written:
            if is_bad:
                self.spoilt.add(block)
            elif block not in read:
                self.spoilt.discard(block)
        return is_bad


def ints(data: bytes) -> array:
    found = array("i")
    found.frombytes(data)
    return found


def engine_with(is_spoiling, num_blocks: int = 256, **settings) -> tuple[EngineUnderTest, SpoilingRows]:
    rows = SpoilingRows(num_blocks, is_spoiling)
    return EngineUnderTest(num_blocks=num_blocks, block_size=BLOCK_SIZE, apply=rows.apply, **settings), rows


@pytest.mark.parametrize("depth", [1, 2])
def test_a_prompt_whose_client_left_before_anyone_looked_spoils_no_later_one(depth):
    shared = prompt(1, 60)
    is_first = iter([True])
    engine, rows = engine_with(lambda ids, before, after: next(is_first, False), budget=16, depth=depth)
    engine.add(submit(1, shared + prompt(2, 60), max_tokens=8))
    for _ in range(3):
        engine.step()
    engine.abort(1)
    later = [submit(number, shared + prompt(number, 7), max_tokens=12) for number in (2, 3, 4)]
    for request in later:
        engine.add(request)
    answers = engine.run()
    assert rows.num_failures, "the spoilt blocks were not read: this test shows nothing"
    for request in later:
        answer = answers[request.request_id, 0]
        assert answer.finished[0].reason == "length", answer.finished[0].message
        assert [answer.token_ids] == alone(request)


@pytest.mark.parametrize("depth", [1, 2])
def test_requests_that_shared_a_prefix_with_the_one_that_spoilt_it_compute_it_themselves(depth):
    shared = prompt(1, 40)
    culprit = submit(1, shared + [499] + prompt(2, 3), max_tokens=6)
    others = [submit(number, shared + prompt(number, 5), max_tokens=12, n=number % 2 + 1) for number in (2, 3, 4)]

    def is_spoiling(ids: list[int], before: int, after: int) -> bool:
        return len(ids) > 40 and ids[40] == 499

    engine, rows = engine_with(is_spoiling, depth=depth, budget=64)
    for request in (culprit, *others):
        engine.add(request)
    answers = engine.run()
    assert rows.num_failures
    assert answers[1, 0].finished[0].reason == "error" and "not a number" in answers[1, 0].finished[0].message
    for request in others:
        found = [answers[request.request_id, index] for index in range(request.n)]
        assert [answer.finished[0].reason for answer in found] == ["length"] * request.n
        assert [answer.token_ids for answer in found] == alone(request)


def test_a_spoilt_request_that_was_preempted_in_the_meantime_leaves_nothing_in_the_cache():
    """Its failure is heard of when it holds no blocks any more."""
    shared = prompt(1, 20)
    engine, rows = engine_with(lambda ids, before, after: ids[:20] == shared and len(ids) > 24 and before == 24)
    engine.add(submit(1, [*shared, 7, 8, 9, 10], max_tokens=20))
    while not rows.num_failures:
        engine.step()
    (request,) = engine.scheduler.requests.values()
    engine.scheduler.recompute(request.choices[0])
    answers = engine.run()
    assert answers[1, 0].finished[0].reason == "error"
    assert len(engine.scheduler.cache) == 0


def test_what_is_spoilt_by_its_own_tokens_ends_with_an_error_however_often_it_comes():
    engine, rows = engine_with(lambda ids, before, after: 499 in ids[:after], depth=1)
    for number in range(3):
        engine.add(submit(number, [*prompt(1, 20), 499, 3], max_tokens=6))
        answer = engine.run()[number, 0]
        assert answer.finished[0].reason == "error" and not answer.token_ids
    assert rows.num_failures == 3  # nothing of it was found in the cache, so none was tried twice
