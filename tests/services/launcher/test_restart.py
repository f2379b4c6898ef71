"""`quire restart` against a live launcher with fake services: one after the other, and never fewer than before."""

from __future__ import annotations

import os
import signal

import pytest

from quire.services.launcher.restart import restart

from .conftest import Deploy, Deployment, wait_until


def ready(deploy: Deploy, modes: dict[str, str] | None = None, **settings) -> Deployment:
    deployment = deploy(modes, **settings)
    assert deployment.recorder.is_ready.wait(60)
    return deployment


def names(deployment: Deployment, kind: str) -> set[str]:
    return {name for name in deployment.supervisor.children if name.startswith(kind)}


def test_tokenizers_are_replaced_by_successors_that_are_ready_first(deploy: Deploy) -> None:
    deployment = ready(deploy)
    old = deployment.pid("tokenizer-0")
    assert restart(["tokenizer", "--run-dir", str(deployment.path)]) == 0
    assert names(deployment, "tokenizer") == {"tokenizer-1"}
    assert deployment.stop_order() == ["tokenizer-0"]
    assert deployment.pid("tokenizer-1") != old
    assert deployment.recorder.restarts == [] and deployment.recorder.endings["tokenizer-0"][1] is True


def test_frontends_are_replaced_by_successors_that_are_ready_first(deploy: Deploy) -> None:
    deployment = ready(deploy, chain=("frontend-0", "frontend-1", "tokenizer-0", "engine-0", "worker-0-0"))
    assert restart(["frontend", "--run-dir", str(deployment.path)]) == 0
    assert names(deployment, "frontend") == {"frontend-0", "frontend-2"}
    assert deployment.stop_order() == ["frontend-0", "frontend-1"]
    assert deployment.recorder.restarts == []


@pytest.mark.parametrize("name", ["engine-0", "worker-0-0"])
def test_what_owns_a_device_goes_first_and_comes_back_under_its_name(deploy: Deploy, name: str) -> None:
    deployment = ready(deploy)
    old = deployment.pid(name)
    assert restart([name.partition("-")[0], "--one", name, "--run-dir", str(deployment.path)]) == 0
    assert deployment.pid(name) != old and deployment.supervisor.children[name].is_ready
    assert len(deployment.supervisor.children) == 4
    assert deployment.recorder.restarts == []


def test_workers_of_one_engine_are_replaced_together(deploy: Deploy) -> None:
    deployment = ready(deploy, chain=("frontend-0", "tokenizer-0", "engine-0", "worker-0-0", "worker-0-1"))
    old = {name: deployment.pid(name) for name in names(deployment, "worker")}
    assert restart(["worker", "--one", "worker-0-1", "--run-dir", str(deployment.path)]) == 0
    assert {name: deployment.pid(name) != pid for name, pid in old.items()} == {"worker-0-0": True, "worker-0-1": True}


def test_a_successor_that_cannot_start_leaves_the_old_one_at_work(
    deploy: Deploy, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = ready(deploy, {"tokenizer-1": "dies_at_start"})
    old = deployment.pid("tokenizer-0")
    assert restart(["tokenizer", "--run-dir", str(deployment.path)]) == 1
    assert "tokenizer-1 could not be started" in capsys.readouterr().err
    assert deployment.pid("tokenizer-0") == old
    assert deployment.recorder.given_up == ["tokenizer-1: the disk is on fire (exit code 1)"]


def test_what_does_not_leave_in_time_is_killed(deploy: Deploy) -> None:
    deployment = ready(deploy, {"engine-0": "stubborn"}, shutdown_timeout=0.0)
    old = deployment.pid("engine-0")
    assert restart(["engine", "--run-dir", str(deployment.path)]) == 0
    assert deployment.pid("engine-0") != old
    assert deployment.recorder.endings["engine-0"][0].code == -signal.SIGKILL


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tokenizer", "--one", "tokenizer-7"], "no tokenizer-7 of kind tokenizer runs here"),
        (["engine", "--one", "tokenizer-0"], "no tokenizer-0 of kind engine runs here"),
    ],
)
def test_what_is_not_there_is_not_restarted(
    deploy: Deploy, capsys: pytest.CaptureFixture[str], argv: list[str], message: str
) -> None:
    deployment = ready(deploy)
    assert restart([*argv, "--run-dir", str(deployment.path)]) == 1
    assert message in capsys.readouterr().err


def test_a_stop_in_the_midst_of_a_restart_stops_everything(deploy: Deploy) -> None:
    deployment = ready(deploy, {"tokenizer-1": "never_ready"})
    assert restart(["tokenizer", "--run-dir", str(deployment.path), "--timeout", "0.5"]) == 1
    wait_until(lambda: "tokenizer-1" in deployment.supervisor.children)
    pid = deployment.pid("tokenizer-1")
    deployment.supervisor.ask_to_stop()
    deployment.join()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
