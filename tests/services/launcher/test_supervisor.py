"""The supervisor with fake services: start, crash, stop, leftovers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from quire.services.launcher.crash_policy import Loss, Restart, StayDown
from quire.services.launcher.scale import scale

from .conftest import CHAIN, FAKE_SERVICE, ROOT, Deploy, is_alive, wait_until


def test_all_ready_makes_the_server_ready(deploy: Deploy) -> None:
    deployment = deploy()
    assert deployment.recorder.is_ready.wait(60)
    assert set(deployment.supervisor.children) == set(CHAIN)


def test_services_stop_from_the_top_down(deploy: Deploy) -> None:
    deployment = deploy()
    assert deployment.recorder.is_ready.wait(60)
    deployment.supervisor.ask_to_stop()
    deployment.join()
    assert deployment.outcome is True
    assert deployment.stop_order() == list(CHAIN)


def test_nothing_is_left_after_a_stop(deploy: Deploy) -> None:
    deployment = deploy({"worker-0-0": "leaves_a_child"})
    assert deployment.recorder.is_ready.wait(60)
    pids = [deployment.pid(name) for name in CHAIN]
    pids += [int(line.split()[1]) for line in deployment.recorder.lines if line.startswith("grandchild")]
    assert len(pids) == 5
    deployment.supervisor.ask_to_stop()
    deployment.join()
    wait_until(lambda: not any(is_alive(pid) for pid in pids))
    assert os.listdir(deployment.path) == []


def test_a_crash_at_start_ends_all_and_says_why(deploy: Deploy) -> None:
    deployment = deploy({"worker-0-0": "dies_at_start"})
    deployment.join()
    assert deployment.outcome is False
    assert deployment.supervisor.cause == "worker-0-0: the disk is on fire (exit code 1)"


def test_a_failed_report_is_the_cause(deploy: Deploy) -> None:
    deployment = deploy({"worker-0-0": "fails"})
    deployment.join()
    assert deployment.supervisor.cause == (
        "worker-0-0: 8 GiB of weights do not fit into 4 GiB; see --memory-utilization (exit code 3)"
    )


@pytest.mark.parametrize("name", CHAIN)
def test_a_kill_of_any_service_ends_all_in_order(deploy: Deploy, name: str) -> None:
    deployment = deploy()
    assert deployment.recorder.is_ready.wait(60)
    os.kill(deployment.pid(name), signal.SIGKILL)
    deployment.join()
    assert deployment.outcome is False
    assert deployment.supervisor.cause.startswith(f"{name}: ") or f"{name} ended" in deployment.supervisor.cause
    assert "killed by SIGKILL" in deployment.supervisor.cause
    assert deployment.stop_order() == [other for other in CHAIN if other != name]


def test_a_service_that_does_not_stop_is_killed(deploy: Deploy) -> None:
    deployment = deploy({"frontend-0": "stubborn"}, shutdown_timeout=0.0)
    assert deployment.recorder.is_ready.wait(60)
    deployment.supervisor.ask_to_stop()
    deployment.join()
    ending, is_expected = deployment.recorder.endings["frontend-0"]
    assert (ending.how, is_expected) == ("killed by SIGKILL", True)


def test_a_second_stop_ends_all_now(deploy: Deploy) -> None:
    deployment = deploy({"frontend-0": "stubborn"}, shutdown_timeout=600.0)
    assert deployment.recorder.is_ready.wait(60)
    deployment.supervisor.ask_to_stop()
    wait_until(lambda: deployment.supervisor.children["frontend-0"].is_stopping)
    deployment.supervisor.ask_to_stop()
    deployment.join()
    assert deployment.recorder.endings["worker-0-0"][0].how == "killed by SIGKILL"


def test_a_stop_while_starting_is_a_stop(deploy: Deploy) -> None:
    deployment = deploy({"worker-0-0": "never_ready"})
    wait_until(lambda: len(deployment.supervisor.children) == 4)
    deployment.supervisor.ask_to_stop()
    deployment.join()
    assert deployment.outcome is True
    assert not deployment.recorder.is_ready.is_set()


def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import os, sys
        from quire.services.launcher.supervisor import Supervisor
        from quire.services.launcher.topology import ServiceSpec
        from quire.shared.config import LauncherConfig
        from tests.services.launcher.conftest import Recorder

        class Printer(Recorder):
            def ready(self, seconds):
                print(*(child.pid for child in supervisor.children.values()), flush=True)

        run_dir = {str(tmp_path / "run")!r}
        def spec(name):
            return ServiceSpec(name, (sys.executable, {str(FAKE_SERVICE)!r}, "--run-dir", run_dir,
                                      "--name", name, "--parent-pid", str(os.getpid())))
        supervisor = Supervisor(LauncherConfig(run_dir=run_dir), spec, Printer())
        supervisor.run([spec(name) for name in {CHAIN!r}])
        """
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        pids = [int(word) for word in process.stdout.readline().split()]
        assert len(pids) == 4
        process.kill()
        wait_until(lambda: not any(is_alive(pid) for pid in pids))


class _StartsAgainOnce:
    """The first crash is mended, the second is the last."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def decide(self, loss: Loss, now: float) -> Restart | StayDown:
        if loss.name in self._names:
            return StayDown(f"two crashes of {loss.name}")
        self._names.add(loss.name)
        return Restart("a crash", 0.0)


def test_what_stays_down_is_told_to_every_frontend_also_to_later_ones_and_taken_back(deploy: Deploy) -> None:
    deployment = deploy(policy=_StartsAgainOnce())
    assert deployment.recorder.is_ready.wait(60)
    first = deployment.pid("tokenizer-0")
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: deployment.supervisor.children.get("tokenizer-0") is not None)
    wait_until(lambda: deployment.pid_or("tokenizer-0", first) != first)
    wait_until(lambda: deployment.supervisor.children["tokenizer-0"].is_ready)
    os.kill(deployment.pid("tokenizer-0"), signal.SIGKILL)
    once, down = {"tokenizer-0": 1}, {"tokenizer-0": "two crashes of tokenizer-0"}
    wait_until(lambda: deployment.outages("frontend-0") == [[{}, {}], [{}, once], [down, once]])
    assert deployment.recorder.given_up == ["two crashes of tokenizer-0"]
    assert scale(["frontend=2", "--run-dir", str(deployment.path)]) == 0
    wait_until(lambda: deployment.outages("frontend-1") == [[down, once]])
    assert scale(["tokenizer=1", "--run-dir", str(deployment.path)]) == 0
    wait_until(lambda: deployment.outages("frontend-0")[-1] == [{}, once])
    deployment.close()
    assert deployment.outcome is True


def test_a_death_is_told_at_once_to_everyone_above_workers(deploy: Deploy) -> None:
    deployment = deploy(policy=_StartsAgainOnce())
    assert deployment.recorder.is_ready.wait(60)
    os.kill(deployment.pid("worker-0-0"), signal.SIGKILL)
    looks = {name: Path(f"{deployment.trace}.looks.{name}") for name in CHAIN[:3]}
    wait_until(lambda: all(file.exists() for file in looks.values()))
    assert not Path(f"{deployment.trace}.looks.worker-0-0").exists()
