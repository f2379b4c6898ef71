"""The command line of each service: exactly its own settings, and nothing from the launcher's surroundings."""

from __future__ import annotations

import pytest

from quire.services.launcher.gpus import visible_gpus
from quire.services.launcher.topology import CONFIGS, KINDS, Topology, child_environment
from quire.shared.config import EngineConfig, FrontendConfig, WorkerConfig
from quire.shared.flags import fields, parse

VALUES = {
    "model": "/m",
    "max_num_seqs": 8,
    "device": "cpu",
    "port": 8000,
    "api_key": ("sk-first", "sk-second"),
    "tokenizers": 3,
}


@pytest.fixture
def topology() -> Topology:
    return Topology(VALUES, "/run/here", parent_pid=1)


def test_a_service_gets_its_own_settings_only(topology: Topology) -> None:
    command = topology.spec("engine-0").command
    config = parse(EngineConfig, command[3:])
    assert (config.max_num_seqs, config.run_dir, config.name, config.parent_pid) == (8, "/run/here", "engine-0", 1)
    assert "--model" not in command
    config = parse(WorkerConfig, topology.spec("worker-0-0").command[3:])
    assert (config.model, config.device) == ("/m", "cpu")


def test_workers_are_named_after_their_engine(topology: Topology) -> None:
    assert [spec.name for spec in topology.replica(2)] == ["worker-2-0", "engine-2"]


def test_workers_at_an_address_are_not_started() -> None:
    topology = Topology({"workers": ("tcp://gpu:5000",)}, "/run/here", parent_pid=1)
    assert [spec.name for spec in topology.replica()] == ["engine-0"]


def test_secrets_travel_by_environment(topology: Topology) -> None:
    spec = topology.spec("frontend-0")
    assert "sk-first" not in " ".join(spec.command)
    assert spec.environment == {"QUIRE_API_KEY": "sk-first,sk-second"}


def test_a_variable_does_not_beat_a_flag_that_is_the_default(
    topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUIRE_PORT", "9000")
    monkeypatch.setenv("QUIRE_SOMETHING_ELSE", "kept")
    environment = child_environment(topology.spec("frontend-0"))
    assert "QUIRE_PORT" not in environment
    assert environment["QUIRE_SOMETHING_ELSE"] == "kept"


@pytest.mark.parametrize("kind", KINDS)
def test_every_setting_survives_the_way_to_a_child(kind: str) -> None:
    changed = {
        name: field.flag.choices[-1] if field.flag.choices else _other(field)
        for name, field in fields(CONFIGS[kind]).items()
        if name not in ("config", "run_dir", "name", "parent_pid", "listen") and not field.flag.is_secret
    }
    command = Topology(changed, "/run/here", parent_pid=1).spec(f"{kind}-0").command
    config = parse(CONFIGS[kind], command[3:])
    assert {name: getattr(config, name) for name in changed} == changed


def _other(field) -> object:
    """A value of the field that is not its default."""
    if field.kind is bool:
        return not field.default
    value = (
        "/some/where" if field.kind is str else field.kind(max(field.flag.ge or 1, 3 if field.flag.ge != 0.01 else 0.5))
    )
    if field.flag.le is not None and not isinstance(value, str) and value > field.flag.le:
        value = field.kind(field.flag.ge)
    return (value,) if field.is_list else value


def test_the_frontend_knows_its_port(topology: Topology) -> None:
    assert parse(FrontendConfig, topology.spec("frontend-0").command[3:]).port == 8000


def test_each_rank_gets_its_gpu_and_knows_the_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-5e,7")
    specs = Topology({"tensor_parallel_size": 2}, "/run/here", parent_pid=1).replica()
    assert [spec.name for spec in specs] == ["worker-0-0", "worker-0-1", "engine-0"]
    assert [spec.environment for spec in specs] == [
        {"CUDA_VISIBLE_DEVICES": "4"},
        {"CUDA_VISIBLE_DEVICES": "GPU-5e"},
        {},
    ]
    assert [spec.group for spec in specs] == ["worker-0", "worker-0", ""]
    assert parse(WorkerConfig, specs[1].command[3:]).tensor_parallel_size == 2
    assert parse(EngineConfig, specs[2].command[3:]).tensor_parallel_size == 2


def test_a_worker_alone_keeps_the_gpus_it_was_given(topology: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    spec = topology.spec("worker-0-0")
    assert (spec.environment, spec.group) == ({}, "")


def test_gpus_are_counted_as_cuda_sees_them(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_gpus(tmp_path / "no driver") == []
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert visible_gpus(tmp_path) == ["0", "1"]
    for given, visible in (("", []), ("2", ["2"]), ("1, 0", ["1", "0"]), ("1,-1,0", ["1"])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert visible_gpus(tmp_path) == visible
