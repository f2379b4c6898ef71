"""compose.yaml, read as Docker Compose would, and its services run as plain processes."""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from quire.shared.flags import fields

ROOT = Path(__file__).resolve().parents[1]
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
READY_SECONDS = 120


def interpolated(value: Any) -> Any:
    """`${NAME:-default}` filled in as on a machine where nothing is set, in every string."""
    match value:
        case dict():
            return {name: interpolated(one) for name, one in value.items()}
        case list():
            return [interpolated(one) for one in value]
        case str():
            return _VARIABLE.sub(lambda match: match[2] or "", value)
    return value


def compose() -> dict[str, Any]:
    return interpolated(yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8")))


def entrypoint() -> list[str]:
    """What the image runs before a service's command."""
    line = re.search(r"^ENTRYPOINT (.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None
    return json.loads(line[1])


def default_profiles() -> set[str]:
    line = re.search(r"^COMPOSE_PROFILES=(.*)$", (ROOT / ".env").read_text(encoding="utf-8"), re.MULTILINE)
    assert line is not None
    return set(line[1].split(","))


def started_by(profiles: set[str]) -> dict[str, dict[str, Any]]:
    services = compose()["services"]
    return {name: one for name, one in services.items() if not one.get("profiles") or profiles & set(one["profiles"])}


def test_bare_up_starts_the_chain_on_the_cpu() -> None:
    assert set(started_by(default_profiles())) == {"frontend", "tokenizer", "engine"}
    assert set(started_by({"gpu"})) == {"frontend", "tokenizer", "engine-gpu"}


@pytest.mark.parametrize("name", compose()["services"])
def test_every_service_is_locked_down(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert not service.get("privileged")
    assert service["user"] == compose()["services"]["frontend"]["user"] != "0:0"
    assert service["restart"] == "unless-stopped"
    (mount,) = service["tmpfs"]
    folder, _, options = mount.partition(":")
    assert folder == "/tmp" and {"nosuid", "nodev"} <= set(options.split(",")) and "size=" in options
    assert ("noexec" in options) == (name != "engine-gpu")
    assert service["pids_limit"] > 0
    assert service["healthcheck"]["test"][:3] == ["CMD", "quire", "health"]


@pytest.mark.parametrize("name", compose()["services"])
def test_a_service_has_longer_to_stop_than_its_requests(name: str) -> None:
    from quire.shared.config import LauncherConfig

    grace = int(compose()["services"][name]["stop_grace_period"].removesuffix("s"))
    assert grace > fields(LauncherConfig)["shutdown_timeout"].default + 5


def test_the_run_directory_is_a_private_tmpfs_of_the_services_user() -> None:
    document = compose()
    options = document["volumes"]["run"]["driver_opts"]
    user, _, group = document["services"]["frontend"]["user"].partition(":")
    assert options["type"] == "tmpfs"
    assert {f"uid={user}", f"gid={group}", "mode=0700"} <= set(options["o"].split(","))
    for service in document["services"].values():
        assert f"run:{service['environment']['QUIRE_RUN_DIR']}" in service["volumes"]


def test_only_the_frontend_has_a_port_and_only_on_this_host() -> None:
    for name, service in compose()["services"].items():
        ports = service.get("ports", [])
        assert ports == (["127.0.0.1:8000:8000"] if name == "frontend" else [])


def test_what_needs_no_way_out_has_none() -> None:
    document = compose()
    assert document["networks"]["inside"] == {"internal": True}
    assert not (document["networks"]["outside"] or {}).get("internal")
    for name, service in document["services"].items():
        assert service["networks"] == (["outside"] if name == "frontend" else ["inside"]), name


def test_only_models_and_what_services_share_is_mounted_and_models_cannot_be_written() -> None:
    for service in compose()["services"].values():
        mounts = dict(mount.split(":", 1) for mount in service["volumes"])
        assert set(mounts) == {"run", "hub", "./shared/demo_model"}
        assert mounts["./shared/demo_model"] == "/models:ro"


def test_health_checks_are_quick_to_find_out() -> None:
    for service in compose()["services"].values():
        check = {name: service["healthcheck"][name] for name in ("interval", "timeout", "retries")}
        assert int(check["interval"][:-1]) * check["retries"] <= 15 and int(check["timeout"][:-1]) <= 5


def test_every_setting_in_the_environment_is_one() -> None:
    from quire.services.launcher.topology import CONFIGS

    for name, service in compose()["services"].items():
        kinds = ("engine", "worker") if name.startswith("engine") else (name,)
        known = {field.variable for kind in kinds for field in fields(CONFIGS[kind]).values()}
        given = {variable for variable in service["environment"] if variable.startswith("QUIRE_")}
        assert given <= known, name


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Up:
    """The services of bare `docker compose up` as processes of this machine."""

    def __init__(self, run_dir: Path, log: Path) -> None:
        self.port = free_port()
        self.run_dir = run_dir
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log = log.open("wb")
        for name, service in started_by(default_profiles()).items():
            self.start(name, service)

    def environment(self, service: dict[str, Any]) -> dict[str, str]:
        """The container's, but for what a container has to itself: the run directory and the port."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("QUIRE_")}
        given = {name: str(value) for name, value in service["environment"].items()}
        given["QUIRE_RUN_DIR"] = str(self.run_dir)
        if "QUIRE_PORT" in given:
            given |= {"QUIRE_PORT": str(self.port), "QUIRE_HOST": "127.0.0.1"}
        del given["HF_HOME"]
        given["QUIRE_THREADS"] = "1"  # tests share the machine
        return {**kept, **given, "PYTHONPATH": str(ROOT)}

    def start(self, name: str, service: dict[str, Any], instance: int = 0) -> None:
        command = [*quire_command(), *service["command"]]
        self.processes[f"{name}-{instance}"] = subprocess.Popen(
            command, cwd="/tmp", env=self.environment(service), stdout=self._log, stderr=self._log
        )

    def request(self, path: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            assert all(process.poll() is None for process in self.processes.values()), "a service has ended"
            try:
                if self.request("/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError("the services did not get ready")

    def close(self) -> None:
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()


def quire_command() -> list[str]:
    (program,) = entrypoint()
    assert program == "quire"
    return [sys.executable, "-m", "quire"]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("up")
    started = Up(folder / "run", folder / "log")
    try:
        started.wait_until_ready()
        yield started
    finally:
        started.close()
        print((folder / "log").read_text(errors="replace"))


def streamed(up: Up) -> str:
    messages = [{"role": "user", "content": "Count from 1 to 20"}]
    body = {"model": json.loads(up.request("/v1/models")[1])["data"][0]["id"], "messages": messages}
    status, text = up.request("/v1/chat/completions", {**body, "stream": True, "temperature": 0, "max_tokens": 120})
    assert status == 200
    events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert len(events) > 10
    chunks = [json.loads(event) for event in events[:-1]]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


def test_the_containers_commands_answer_with_a_stream(up: Up) -> None:
    assert "1, 2, 3, 4, 5" in streamed(up).replace("\n", " ")


def test_a_scaled_up_tokenizer_takes_a_name_of_its_own(up: Up) -> None:
    service = compose()["services"]["tokenizer"]
    up.start("tokenizer", service, instance=1)
    deadline = time.monotonic() + READY_SECONDS
    while not (up.run_dir / "tokenizer-1.sock").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert streamed(up)
    assert up.processes["tokenizer-1"].poll() is None


@pytest.mark.parametrize("name", started_by(default_profiles()))
def test_health_checks_succeed(up: Up, name: str) -> None:
    service = compose()["services"][name]
    command = [*quire_command(), *service["healthcheck"]["test"][2:]]
    deadline = time.monotonic() + READY_SECONDS
    while True:
        done = subprocess.run(command, env=up.environment(service), capture_output=True, text=True, cwd="/tmp")
        if done.returncode == 0:
            return
        assert time.monotonic() < deadline, done.stdout + done.stderr
