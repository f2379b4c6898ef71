"""The fake worker as an oracle: right plans give tokens that depend on all history, broken ones end it."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import quire.shared
from quire.services.worker.fake_rows import FakeRows, Limits, PlanError
from quire.services.worker.fake_tokens import Tokens, prefix_hashes
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

ROOT = Path(quire.shared.__path__[0]).resolve().parent
LIMITS = Limits(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=128, block_size=4, num_blocks=64)
TOKENS = Tokens(pool=tuple(range(3, 500)), eos_token_ids=(2,))


def int32(*values: int) -> bytes:
    return np.array(values, np.int32).tobytes()


def new_row(
    slot: int, ids: list[int], blocks: list[int], computed: int = 0, num_prompt: int | None = None, **sampling: Any
) -> NewRow:
    params = SamplingParams(**sampling)
    return NewRow(Slot(slot), int32(*ids), num_prompt or len(ids), computed, int32(*blocks), params, params.seed)


def plan(
    step: int,
    rows: Sequence[tuple[int, int, int]] = (),
    new: Sequence[NewRow] = (),
    released: Sequence[int] = (),
    added: Sequence[tuple[int, int]] = (),
    copies: Sequence[tuple[int, int]] = (),
) -> Plan:
    """`rows`: (slot, scheduled, computed)."""
    slots, scheduled, computed = zip(*rows, strict=True) if rows else ((), (), ())
    return Plan(
        step,
        list(released),
        list(new),
        int32(*(slot for slot, _ in added)),
        int32(*(block for _, block in added)),
        int32(*(block for pair in copies for block in pair)),
        int32(*slots),
        int32(*scheduled),
        int32(*computed),
    )


def sampled(result: StepResult) -> list[int]:
    return np.frombuffer(result.token_ids, np.int32).tolist()


def generate(
    ids: list[int],
    count: int,
    chunk: int = 64,
    tokens: Tokens = TOKENS,
    num_prompt: int | None = None,
    **sampling: Any,
) -> list[int]:
    """Tokens that follow `ids` on fresh rows, the prompt computed in chunks."""
    rows = FakeRows(LIMITS, tokens)
    blocks = list(range(-(-(len(ids) + count) // LIMITS.block_size)))
    new, outputs, step, computed = [new_row(1, ids, blocks, 0, num_prompt, **sampling)], [], 0, 0
    while computed < len(ids):
        scheduled = min(chunk, len(ids) - computed)
        outputs = sampled(rows.apply(plan(step, [(1, scheduled, computed)], new)))
        new, step, computed = [], step + 1, computed + scheduled
    for position in range(count - 1):
        outputs += sampled(rows.apply(plan(step + position, [(1, 1, computed + position)])))
    return outputs


def started(ids: list[int], blocks: list[int]) -> FakeRows:
    """Rows with `ids` computed in slot 0, one token sampled."""
    rows = FakeRows(LIMITS, TOKENS)
    rows.apply(plan(0, [(0, len(ids), 0)], [new_row(0, ids, blocks)]))
    return rows


def test_prefix_hashes_are_the_rolling_hash_of_each_prefix() -> None:
    hash_so_far, expected = 0, []
    for token_id in (5, 0, 99, 12345):
        hash_so_far = (hash_so_far * 0x9E3779B97F4A7C15 + token_id + 1) % 2**64
        expected.append(hash_so_far)
    assert prefix_hashes(np.array([5, 0, 99, 12345], np.int32)).tolist() == expected


@given(ids=st.lists(st.integers(0, 499), min_size=1, max_size=40), chunk=st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_chunks_do_not_change_tokens(ids: list[int], chunk: int) -> None:
    assert generate(ids, 8, chunk) == generate(ids, 8)


@given(ids=st.lists(st.integers(0, 499), min_size=1, max_size=40), cut=st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_recomputing_from_history_goes_on_with_the_same_tokens(ids: list[int], cut: int) -> None:
    whole = generate(ids, 8, temperature=1.0, seed=7)
    assert generate(ids + whole[:cut], 8 - cut, temperature=1.0, seed=7, num_prompt=len(ids)) == whole[cut:]


@given(ids=st.lists(st.integers(0, 499), min_size=1, max_size=40), data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_other_token_in_the_history_changes_what_follows(ids: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(ids) - 1))
    other = [*ids]
    other[place] = (ids[place] + 1) % 500
    assert generate(ids, 6) != generate(other, 6)


def test_greedy_ignores_the_seed_and_sampling_does_not() -> None:
    assert generate([5, 6, 7], 8, temperature=0.0, seed=1) == generate([5, 6, 7], 8, temperature=0.0, seed=2)
    assert generate([5, 6, 7], 8, temperature=1.0, seed=1) != generate([5, 6, 7], 8, temperature=1.0, seed=2)


def test_tokens_by_step_are_the_same_for_all_rows() -> None:
    rows = FakeRows(LIMITS, Tokens(pool=(10, 20, 30), is_by_step=True))
    new = [new_row(0, [5], [0]), new_row(1, [6], [1])]
    assert sampled(rows.apply(plan(4, [(0, 1, 0), (1, 1, 0)], new))) == [20, 20]
    assert sampled(rows.apply(plan(5, [(0, 1, 1), (1, 1, 1)]))) == [30, 30]


def test_eos_comes_with_its_probability_but_not_before_min_tokens() -> None:
    always = Tokens(pool=(10, 20), eos_token_ids=(2,), eos_probability=1.0)
    assert generate([5, 6], 5, tokens=always, min_tokens=3)[:3] == generate([5, 6], 3, tokens=Tokens(pool=(10, 20)))
    assert generate([5, 6], 5, tokens=always, min_tokens=3)[3:] == [2, 2]


def test_allowed_ids_bound_the_choice() -> None:
    assert set(generate([5, 6], 12, allowed_token_ids=[17, 19])) == {17, 19}


def test_prefix_hit_on_computed_blocks_is_accepted_and_a_wrong_one_is_not() -> None:
    ids = [5, 6, 7, 8, 9, 10]
    rows = started(ids, [0, 1])
    rows.apply(plan(1, [(1, 2, 4)], [new_row(1, ids, [0, 2], computed=4)]))
    with pytest.raises(PlanError, match=r"slot 2: wrong KV taken as computed \(position\) \(0\)"):
        rows.apply(plan(2, [(2, 2, 4)], [new_row(2, [6, *ids[1:]], [0, 3], computed=4)]))


def test_copied_tail_block_continues_the_same_prompt() -> None:
    ids = [5, 6, 7, 8, 9, 10]
    rows = started(ids, [0, 1])
    result = rows.apply(plan(1, [(1, 1, 5)], [new_row(1, ids, [0, 2], computed=5)], copies=[(1, 2)]))
    assert sampled(result) == generate(ids, 1)


def test_shared_tail_block_without_a_copy_is_noticed() -> None:
    ids = [5, 6, 7, 8, 9, 10]
    rows = started(ids, [0, 1])
    with pytest.raises(PlanError, match="slot 1: it writes to a block that other rows hold"):
        rows.apply(plan(1, [(1, 1, 5)], [new_row(1, ids, [0, 1], computed=5)]))


def test_copy_over_a_block_that_others_read_is_noticed() -> None:
    ids = [5, 6, 7, 8, 9, 10]
    rows = started(ids, [0, 1])
    with pytest.raises(PlanError, match="copy to block 0, which 2 rows read"):
        rows.apply(plan(1, [(1, 1, 5)], [new_row(1, ids, [0, 2], computed=5)], copies=[(1, 0)]))


def test_logprobs_agree_with_tokens_and_ranks() -> None:
    rows = FakeRows(LIMITS, TOKENS)
    new = [new_row(0, [5], [0]), new_row(1, [6, 7, 8], [1], logprobs=3, prompt_logprobs=2)]
    result = rows.apply(plan(0, [(0, 1, 0), (1, 3, 0)], new))
    (entry,) = result.logprobs
    assert entry.row == 1
    top = np.frombuffer(entry.top_ids, np.int32)
    assert top[0] == sampled(result)[1] and len(set(top.tolist())) == 3
    assert np.frombuffer(entry.logprobs, np.float32)[0] == np.frombuffer(entry.top_logprobs, np.float32)[0]
    (of_prompt,) = result.prompt_logprobs
    assert of_prompt.row == 1 and len(np.frombuffer(of_prompt.logprobs, np.float32)) == 2
    ranks, top = np.frombuffer(of_prompt.ranks, np.int32), np.frombuffer(of_prompt.top_ids, np.int32).reshape(2, 2)
    for index, token_id in enumerate((7, 8)):
        assert (token_id in top[index]) == (ranks[index] <= 2)


def test_failing_rows_are_named() -> None:
    rows = FakeRows(LIMITS, Tokens(pool=(10, 20), failure_probability=1.0))
    assert rows.apply(plan(0, [(2, 1, 0)], [new_row(2, [5], [0])])).failed_rows == [0]


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        (plan(0, [(0, 1, 6)]), "step 0 came after step 0"),
        (plan(1, [(3, 1, 0)]), "slot 3: it holds no row"),
        (plan(1, [(9, 1, 0)]), "slots"),
        (plan(1, [(0, 1, 6), (0, 1, 6)]), "a slot twice"),
        (plan(1, [(0, 2, 6)]), "more tokens scheduled than it has"),
        (plan(1, [(0, 0, 6)]), "no tokens scheduled"),
        (plan(1, [], released=[1]), "slot 1: it holds no row"),
        (plan(1, [(0, 1, 6)], [new_row(0, [5], [9])]), "slot 0: a new row for a slot that is in use"),
        (plan(1, [(1, 1, 0)], [new_row(1, [5], [64])]), "slot 1: block ids"),
        (plan(1, [(1, 1, 0)], [new_row(1, [5], [])]), "slot 1: its blocks do not cover its tokens"),
        (plan(1, [(1, 3, 0), (0, 1, 6)], [new_row(1, [5, 6, 7], [9])]), "a row of one token stands after one of more"),
        (plan(1, [(1, 65, 0)], [new_row(1, [5] * 65, list(range(9, 26)))]), "65 tokens are over the budget of 64"),
        (plan(1, [(1, 1, 2)], [new_row(1, [5, 6, 7], [9], computed=2)]), "slot 1: wrong KV taken as computed"),
        (plan(1, copies=[(0, 64)]), "copy of block 0 to 64"),
    ],
)
def test_broken_plan_is_refused_with_the_reason(broken: Plan, sentence: str) -> None:
    with pytest.raises(PlanError, match=sentence):
        started([5, 6, 7, 8, 9, 10], [0, 1]).apply(broken)


def test_second_token_needs_room_in_the_table() -> None:
    rows = started([5, 6, 7, 8], [0])
    with pytest.raises(PlanError, match="its blocks do not cover its tokens"):
        rows.apply(plan(1, [(0, 1, 4)]))


def test_released_slot_and_blocks_can_be_used_again() -> None:
    rows = started([5, 6, 7, 8], [0])
    result = rows.apply(plan(1, [(0, 2, 0)], [new_row(0, [9, 10], [0])], released=[0]))
    assert sampled(result) == generate([9, 10], 1)


# The process


class FakeEngine:
    """Dials the worker as an engine does."""

    def __init__(self, address: str) -> None:
        self.client: Client[Any] = Client(address, "engine-0", FromWorker)
        self.client.send(Hello("engine-0", PROTOCOL))

    def next(self, kind: type, within_seconds: float = 60.0) -> Any:
        """The next message of that kind."""
        end = time.monotonic() + within_seconds
        while time.monotonic() < end:
            message = self.client.receive()
            if isinstance(message, kind):
                return message
            if message is None:
                wait([self.client], 0.1)
        raise AssertionError(f"no {kind.__name__} within {within_seconds} s")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@contextmanager
def spawned(run_dir: Path, *flags: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "quire.services.worker.fake", "--run-dir", str(run_dir), *flags]
    with subprocess.Popen([*command, "--name", "worker-0-0"], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def engine(run_dir: Path) -> Iterator[FakeEngine]:
    fake = FakeEngine(f"ipc://{run_dir}/worker-0-0.sock")
    yield fake
    fake.client.close()


CONFIGURE = Configure(4, 64, 128, 4, None, 0.9)


def test_process_answers_plans_at_its_pace_and_stamps_them(run_dir: Path, engine: FakeEngine, tmp_path: Path) -> None:
    stamps = tmp_path / "stamps"
    with spawned(run_dir, "--num-blocks", "64", "--stamps", str(stamps), "--step-ms", "30") as process:
        assert engine.next(Report).state == "starting"
        engine.client.send(CONFIGURE)
        ready = engine.next(WorkerReady)
        assert (ready.num_blocks, ready.max_model_len, ready.vocab_size) == (64, 128, 2048)
        before = time.monotonic()
        engine.client.send(plan(7, [(0, 3, 0)], [new_row(0, [5, 6, 7], [0])]))
        result = engine.next(StepResult)
        assert result.step == 7 and result.seconds >= 0.03
        step, sent = struct.unpack_from("<qq", stamps.read_bytes(), 7 * 16)
        assert step == 7 and before + 0.03 <= sent / 1e9 <= time.monotonic()
        engine.client.send(CONFIGURE)
        engine.next(WorkerReady)
        engine.client.send(plan(0, [(0, 3, 0)], [new_row(0, [5, 6, 7], [0])]))
        assert sampled(engine.next(StepResult)) == sampled(result)
        process.terminate()
        assert process.wait(60) == 0
    assert list(run_dir.iterdir()) == []


def test_process_ends_with_the_reason_at_a_broken_plan(run_dir: Path, engine: FakeEngine) -> None:
    with spawned(run_dir) as process:
        engine.client.send(CONFIGURE)
        engine.next(WorkerReady)
        engine.client.send(plan(0, [(0, 1, 0)]))
        failed = engine.next(Report)
        while failed.state != "failed":
            failed = engine.next(Report)
        assert failed.detail == "slot 0: it holds no row"
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 1
        assert errors.splitlines()[-1] == "quire: the plan is broken: slot 0: it holds no row"


def test_fault_points_stop_or_kill_the_process(run_dir: Path, engine: FakeEngine) -> None:
    with spawned(run_dir, "--fault-points", "freeze@step:0,kill@step:1") as process:
        engine.client.send(CONFIGURE)
        engine.next(WorkerReady)
        engine.client.send(plan(0, [(0, 3, 0)], [new_row(0, [5, 6, 7], [0])]))
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        process.send_signal(signal.SIGCONT)
        engine.next(StepResult)
        engine.client.send(plan(1, [(0, 1, 3)]))
        assert process.wait(60) == -signal.SIGKILL
