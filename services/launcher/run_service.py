"""`quire run SERVICE`: one service in the foreground, for containers and several hosts.

A frontend, tokenizer or worker becomes this very process; an engine is supervised together with
its workers, which share its fate.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from quire.shared.config import EngineConfig, LauncherConfig, WorkerConfig, all_fields
from quire.shared.flags import add_to, build, settle
from quire.shared.forbidden import forbid
from quire.shared.log_lines import start_logging
from quire.shared.parent_process import die_with_parent
from quire.shared.run_directory import RunDirectory, RunDirectoryError, default_path
from quire.shared.service import raise_file_limit

from .checklist import Checklist
from .crash_policy import RestartOnLoss, StopOnLoss
from .json_terminal import terminal_of
from .patient_output import PatientOutput
from .preflight import LaunchError, check_host, check_model, check_tensor_parallel
from .server_directories import remove_files
from .supervisor import Supervisor
from .topology import KINDS, Topology


def run_service(argv: list[str]) -> int:
    if not argv or argv[0] not in KINDS:
        is_asked = argv[:1] in (["-h"], ["--help"])
        text = f"usage: quire run {{{','.join(KINDS)}}} [flags]\n\n  quire run SERVICE --help   its flags"
        print(text, file=sys.stdout if is_asked else sys.stderr)
        return 0 if is_asked else 2
    if argv[0] == "engine":
        return _run_engine(argv[1:])
    os.execv(sys.executable, [sys.executable, "-m", f"quire.services.{argv[0]}", *argv[1:]])


def _parse_values(argv: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(
        prog="quire run engine", description="Run an engine with its workers.", allow_abbrev=False
    )
    added = add_to(parser, (EngineConfig, WorkerConfig), without=("listen",))
    given = vars(parser.parse_args(argv))
    try:
        return settle(added, given, all_fields())
    except ValueError as error:
        parser.error(str(error))


def _run_engine(argv: list[str]) -> int:
    forbid()
    values = _parse_values(argv)
    config = build(LauncherConfig, {key: value for key, value in values.items() if key != "name"})
    if config.parent_pid is not None:
        die_with_parent(config.parent_pid)
    output = PatientOutput(sys.stderr)
    level = "warning" if config.log_level == "info" else config.log_level
    start_logging(level, "launcher", config.log_format, output)
    raise_file_limit()
    try:
        check_host()
        check_model(values.get("model"), values.get("load_format", "auto"))
        check_tensor_parallel(values)
        directory = RunDirectory(config.run_dir or default_path())
        index = _index(directory, values.get("name"))
    except (LaunchError, RunDirectoryError) as error:
        print(f"quire: {error}", file=sys.stderr)
        return 1
    terminal = terminal_of(config.log_format, output)
    checklist = Checklist(
        terminal, config.log_level, lambda seconds, reports: [f"engine-{index} is ready in {seconds:.1f} s"]
    )
    topology = Topology(values, str(directory.path))
    policy = RestartOnLoss() if config.restart else StopOnLoss()
    supervisor = Supervisor(config, topology.spec, checklist, policy, scalable=())
    supervisor.stop_on_signals()
    try:
        if supervisor.run(topology.replica(index)):
            return 0
    finally:
        remove_files(directory.path, supervisor.names_used)
    terminal.line(f"quire: stopped: {supervisor.cause}")
    return 1


def _index(directory: RunDirectory, name: str | None) -> int:
    """The index of the engine's name; the first free one of engine-auto."""
    kind, _, index = (name or "engine-auto").partition("-")
    if kind != "engine" or not (index.isdigit() or index == "auto"):
        raise LaunchError(f"--name {name} is not engine-INDEX or engine-auto")
    if index != "auto":
        return int(index)
    taken = directory.entries("engine")
    return next(number for number in range(len(taken) + 1) if f"engine-{number}" not in taken)
