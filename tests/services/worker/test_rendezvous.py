"""Ranks meet in the run directory, watch each other, and notice a plan that only some of them got."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from quire.services.worker.errors import DeviceError, GroupError
from quire.services.worker.peer_watch import PeerWatch
from quire.services.worker.plan_ledger import PlanLedger
from quire.services.worker.rendezvous import Member, Rendezvous, group_of
from quire.services.worker.tensor_parallel import RankGroup
from quire.shared.run_directory import Registration, RunDirectory

CPU = torch.device("cpu")


def registered(run_dir: Path, *names: str) -> list[Registration]:
    made = []
    for name in names:
        made.append(RunDirectory(run_dir).register(name))
        made[-1].announce("ipc://nowhere")
    return made


def rendezvous(run_dir: Path, rank: int, size: int, registration: Registration) -> Rendezvous:
    me = Member(registration.name, registration.incarnation)
    return Rendezvous(RankGroup(rank, size), me, run_dir, CPU)


def test_ranks_learn_who_the_others_are(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    places = registered(run_dir, "worker-0-0", "worker-0-1", "worker-0-2")
    (run_dir / "worker-0.17.rendezvous").write_text("what a killed group left")
    with ThreadPoolExecutor(3) as pool:
        # The last first: it waits for rank 0's file.
        meetings = [pool.submit(rendezvous(run_dir, rank, 3, places[rank]).meet, "cpu, float32") for rank in (2, 1, 0)]
        found = [set(meeting.result(20)) for meeting in meetings]
    everybody = {Member(place.name, place.incarnation) for place in places}
    assert [everybody - others for others in found] == [
        {Member(place.name, place.incarnation)} for place in reversed(places)
    ]
    assert not (run_dir / "worker-0.17.rendezvous").exists()


def test_ranks_that_compute_differently_do_not_begin(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    places = registered(run_dir, "worker-0-0", "worker-0-1")
    with ThreadPoolExecutor(2) as pool:
        facts = ("cuda, bfloat16", "cpu, float32")
        meetings = [pool.submit(rendezvous(run_dir, rank, 2, places[rank]).meet, facts[rank]) for rank in (0, 1)]
        for meeting in meetings:
            with pytest.raises(DeviceError, match=r"rank \d has cuda, bfloat16|rank \d has cpu, float32"):
                meeting.result(20)


def test_a_rank_that_waited_for_a_rank_0_that_died_meets_the_next_one(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    first, second = registered(run_dir, "worker-0-0", "worker-0-1")
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(rendezvous(run_dir, 1, 2, second).meet, "cpu")
        first.close()
        (again,) = registered(run_dir, "worker-0-0")
        met = pool.submit(rendezvous(run_dir, 0, 2, again).meet, "cpu").result(20)
        assert waiting.result(20) == [Member("worker-0-0", again.incarnation)]
    assert met == [Member("worker-0-1", second.incarnation)]


@pytest.mark.parametrize("name", ["worker-0", "worker-0-2", "worker-auto"])
def test_a_name_without_a_rank_of_the_group_is_refused(name: str) -> None:
    with pytest.raises(DeviceError, match="workers are named worker-ENGINE-RANK, ranks from 0 to 1"):
        group_of(name, 2)
    assert group_of(name, 1).size == 1


def test_a_lost_member_is_told_once_and_a_replaced_one_is_lost(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (place,) = registered(run_dir, "worker-0-1")
    told = threading.Event()
    losses: list[str] = []

    def on_loss(name: str) -> None:
        losses.append(name)
        told.set()

    watch = PeerWatch(run_dir, [Member(place.name, place.incarnation)], on_loss)
    watch.start()
    place.close()
    registered(run_dir, "worker-0-1")
    assert told.wait(60)
    watch.join(60)
    assert losses == ["worker-0-1"]


def test_a_watch_that_is_stopped_says_nothing(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    (place,) = registered(run_dir, "worker-0-1")
    watch = PeerWatch(run_dir, [Member(place.name, place.incarnation)], lambda name: pytest.fail(name))
    watch.start()
    watch.stop()
    place.close()
    watch.join(60)
    assert not watch.is_alive()


def test_a_plan_that_only_one_rank_got_is_found_by_the_other(tmp_path: Path) -> None:
    ledgers = [PlanLedger(tmp_path / "plans", RankGroup(rank, 2)) for rank in (0, 1)]
    (tmp_path / "plans").unlink()
    for ledger in ledgers:
        ledger.begin()
        ledger.check()
    ledgers[0].begin()
    ledgers[0].check()
    with pytest.raises(GroupError, match="rank 0 waits in a plan that never came to rank 1"):
        ledgers[1].check()
