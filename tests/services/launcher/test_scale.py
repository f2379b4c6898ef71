"""`quire scale` against a live launcher with fake services."""

from __future__ import annotations

import pytest

from quire.services.launcher.health import health
from quire.services.launcher.scale import scale

from .conftest import Deploy, wait_until


def test_scaling_up_and_down_changes_the_number_of_tokenizers(deploy: Deploy) -> None:
    deployment = deploy()
    assert deployment.recorder.is_ready.wait(60)
    assert scale(["tokenizer=3", "--run-dir", str(deployment.path)]) == 0
    assert {"tokenizer-0", "tokenizer-1", "tokenizer-2"} <= set(deployment.supervisor.children)
    assert scale(["tokenizers=1", "--run-dir", str(deployment.path)]) == 0
    assert "tokenizer-0" in deployment.supervisor.children
    assert deployment.stop_order() and set(deployment.stop_order()) == {"tokenizer-1", "tokenizer-2"}
    assert deployment.recorder.endings["tokenizer-2"][1] is True


def test_an_added_service_that_cannot_start_leaves_the_server_up(
    deploy: Deploy, capsys: pytest.CaptureFixture[str]
) -> None:
    deployment = deploy({"tokenizer-1": "dies_at_start"})
    assert deployment.recorder.is_ready.wait(60)
    assert scale(["tokenizer=2", "--run-dir", str(deployment.path)]) == 1
    assert "tokenizer-1 could not be started" in capsys.readouterr().err
    assert len(deployment.supervisor.children) == 4
    assert deployment.recorder.given_up == ["tokenizer-1: the disk is on fire (exit code 1)"]


@pytest.mark.parametrize(
    ("target", "message"), [("engine=2", "cannot be scaled"), ("tokenizer=0", "1 <= count"), ("tokenizer=65", "<= 64")]
)
def test_what_cannot_be_scaled_is_refused(
    deploy: Deploy, capsys: pytest.CaptureFixture[str], target: str, message: str
) -> None:
    deployment = deploy()
    assert deployment.recorder.is_ready.wait(60)
    assert scale([target, "--run-dir", str(deployment.path)]) == 1
    assert message in capsys.readouterr().err


def test_scaling_without_a_server_says_so(
    tmp_path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert scale(["tokenizer=2"]) == 1
    assert "no server of this user is running" in capsys.readouterr().err
    assert scale(["tokenizer=2", "--run-dir", str(tmp_path / "gone")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_health_is_the_state_of_the_services_of_a_kind(deploy: Deploy, capsys: pytest.CaptureFixture[str]) -> None:
    deployment = deploy({"worker-0-0": "never_ready"})
    run_dir = ["--run-dir", str(deployment.path)]
    wait_until(lambda: len(deployment.supervisor.children) == 4)
    wait_until(lambda: all(child.report is not None for child in deployment.supervisor.children.values()))
    assert health(["tokenizer", *run_dir]) == 0
    assert capsys.readouterr().out == "tokenizer-0: ready\n"
    assert health(["worker", *run_dir]) == 1
    assert capsys.readouterr().out == "worker-0-0: starting\n"
