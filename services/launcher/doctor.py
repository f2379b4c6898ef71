"""`quire doctor [MODEL]`: looks for what would keep a server from running on this machine, or from running well.

Each finding is a line: fine, worth knowing, or in the way, with what to do. Starts and changes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, Literal

from msgspec import Struct

from quire import __version__
from quire.shared.run_directory import RunDirectory, RunDirectoryError, default_path

from .preflight import MIN_PYTHON, LaunchError, check_host, check_model, reserve_port
from .server_directories import live_servers
from .terminal import Terminal, size

_FILES_WANTED = 8192
"""Descriptors: a connection each, and some of every process."""
_INSPECT_SECONDS = 120.0

Level = Literal["fine", "note", "bad"]


class Finding(Struct, frozen=True):
    level: Level
    text: str
    remedy: str = ""


def doctor(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="quire doctor",
        description="Look for what would keep a server from running here, or from running well."
        " Exits with 1 if something is in the way.",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?", help="checkpoint folder to look at too")
    parser.add_argument("--port", type=int, default=8000, help="HTTP port to look at (default: 8000)")
    given = parser.parse_args(argv)
    terminal = Terminal(sys.stdout)
    worst: set[Level] = set()
    for finding in findings(given.model, given.port):
        worst.add(finding.level)
        _print(terminal, finding)
    return 1 if "bad" in worst else 0


def _print(terminal: Terminal, finding: Finding) -> None:
    mark = {"fine": terminal.tick, "note": terminal.bold("!"), "bad": terminal.red("✗" if terminal.is_unicode else "x")}
    terminal.line(f"  {mark[finding.level]} {finding.text}")
    if finding.remedy:
        terminal.line(f"      {finding.remedy}")


def findings(model: str | None, port: int) -> Iterator[Finding]:
    """All of them, quick ones first."""
    looks: list[Callable[[], Iterator[Finding]]] = [
        _software, _packages, _limits, _run_directory, lambda: _port(port), _servers, _device,
    ]  # fmt: skip
    if model is not None:
        looks.append(lambda: _model(model))
    for look in looks:
        yield from look()


def _software() -> Iterator[Finding]:
    text = f"Quire {__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    if sys.version_info < MIN_PYTHON:
        yield Finding("bad", text, "Quire wants Python 3.10 or later")
        return
    try:
        check_host()
        yield Finding("fine", text)
    except LaunchError as error:
        yield Finding("bad", text, str(error))


def _packages() -> Iterator[Finding]:
    """What the installed Quire asks for, against what is there."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires("quire") or ()]
    except metadata.PackageNotFoundError:
        yield Finding("note", "this Quire is not installed but run from its folder", "its packages were not looked at")
        return
    wrong = []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong.append(f"{requirement.name} is {version}, wanted is {requirement.specifier}")
    if wrong:
        yield Finding("bad", "packages: " + "; ".join(wrong), "pip install --upgrade quire")
    else:
        yield Finding("fine", "all packages are there")


def _limits() -> Iterator[Finding]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < _FILES_WANTED:
        text = f"a process may open {most} files: connections wait beyond nine tenths of that"
        yield Finding("note", text, "raise the hard limit (ulimit -Hn, LimitNOFILE=, or ulimits: in compose)")
    else:
        yield Finding("fine", f"a process may open {'any number of' if most == resource.RLIM_INFINITY else most} files")


def _run_directory() -> Iterator[Finding]:
    path = default_path()
    try:
        RunDirectory(path).close()
        yield Finding("fine", f"run directories can be made beside {path}")
    except (RunDirectoryError, OSError) as error:
        yield Finding("bad", f"no run directory can be made: {error}", "name another place with --run-dir")


def _port(port: int) -> Iterator[Finding]:
    try:
        holder, _ = reserve_port("127.0.0.1", port)
        holder.close()
        yield Finding("fine", f"port {port} is free")
    except LaunchError as error:
        yield Finding("note", str(error))


def _servers() -> Iterator[Finding]:
    for path in live_servers():
        yield Finding(
            "note", f"a server is running (run directory {path})", "it shares this machine's cores and memory"
        )


def _device() -> Iterator[Finding]:
    """Torch, CPU and GPUs, as a process of the worker's sees them."""
    command = [sys.executable, "-m", "quire.services.worker.machine"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSPECT_SECONDS)
    except subprocess.TimeoutExpired:
        yield Finding("bad", f"torch was not imported within {_INSPECT_SECONDS:g} s")
        return
    if done.returncode:
        yield Finding("bad", "torch does not work here", (done.stderr.strip().splitlines() or ["it ended"])[-1])
        return
    machine: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    yield from _gpus(machine)
    yield from _cpu(machine)


def _gpus(machine: dict[str, Any]) -> Iterator[Finding]:
    torch = f"torch {machine['torch']}"
    for gpu in machine["gpus"]:
        free = f"{size(gpu['free_bytes'])} of {size(gpu['total_bytes'])} free"
        is_taken = gpu["free_bytes"] < 0.8 * gpu["total_bytes"]
        remedy = "another process has the rest: give it time to end, or lower --memory-utilization" if is_taken else ""
        yield Finding(
            "note" if is_taken else "fine", f"{gpu['name']} (sm_{gpu['capability']}), {free}, {torch}", remedy
        )
    if machine["gpus"] and not machine["has_triton"]:
        yield Finding("bad", "Triton is not there, which the GPU's kernels are written in", "pip install triton")
    elif machine["gpus"] and not machine["has_c_compiler"]:
        text = "there is no C compiler, with which Triton builds what launches the GPU's kernels"
        yield Finding("bad", text, "install gcc and Python's headers (python3-dev)")
    if not machine["gpus"]:
        has_device = os.path.exists("/dev/nvidiactl")
        if has_device:
            cuda = machine["cuda"] or "none"
            yield Finding(
                "bad",
                f"there is an NVIDIA device, but {torch} (CUDA {cuda}) sees none",
                "install a torch for this driver",
            )
        else:
            yield Finding("fine", f"no GPU, {torch}: models run on the CPU")


def _cpu(machine: dict[str, Any]) -> Iterator[Finding]:
    text = f"{_cpu_name()}, {machine['cpus']} CPUs to use, {size(machine['memory_bytes'])} of memory to take"
    if machine["has_bfloat16"]:
        yield Finding("fine", text)
    else:
        yield Finding("note", text, "it has no bfloat16 instructions: models run in float32 on it, in twice the memory")
    native, level = machine["native"], machine["native"]["level"]
    if native["state"] == "there":
        yield Finding("fine", f"native kernels for {level}")
    elif native["state"] == "to compile":
        yield Finding("fine", f"native kernels for {level} will be compiled at the first start, in some seconds")
    else:
        remedy = "install g++: torch's own operations serve meanwhile, more slowly" if level else ""
        yield Finding("note", f"no native kernels: {native['detail']}", remedy)


def _cpu_name() -> str:
    try:
        with open("/proc/cpuinfo") as opened:
            found = re.search(r"^model name\s*:\s*(.+)$", opened.read(), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1).strip() if found else platform.machine()


def _model(model: str) -> Iterator[Finding]:
    try:
        check_model(model)
        yield Finding("fine", f"{model} can be served")
    except LaunchError as error:
        yield Finding("bad", str(error))
