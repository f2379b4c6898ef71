"""`quire serve [MODEL]`: one server on this machine, all its services under one supervisor.

Finds out early what cannot work, starts everything at once, and ends with the URL. Its flags are serve_flags.py's.
Knows nothing of HTTP beyond the port.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

from quire.shared.config import FrontendConfig, LauncherConfig
from quire.shared.flags import build
from quire.shared.forbidden import forbid
from quire.shared.log_lines import start_logging
from quire.shared.messages import Report
from quire.shared.parent_process import die_with_parent
from quire.shared.run_directory import RunDirectoryError
from quire.shared.service import raise_file_limit

from .checklist import Checklist
from .crash_policy import RestartOnLoss, StopOnLoss
from .json_terminal import terminal_of
from .patient_output import PatientOutput
from .preflight import LaunchError, check_host, check_model, check_tensor_parallel, reserve_port
from .server_directories import ServerDirectory
from .supervisor import Supervisor
from .terminal import Terminal
from .topology import Topology


def serve(values: dict[str, Any]) -> int:
    """`values`: the settings given, by field name (see serve_flags.py). Returns the exit code."""
    forbid()
    config = build(LauncherConfig, values)
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
        frontend = build(FrontendConfig, values)
        holder, port = reserve_port(frontend.host, frontend.port)
        directory = ServerDirectory(config.run_dir)
    except (LaunchError, RunDirectoryError) as error:
        print(f"quire: {error}", file=sys.stderr)
        return 1
    with holder:
        return _supervise({**values, "port": port}, config, directory, output)


def _supervise(
    values: dict[str, Any], config: LauncherConfig, directory: ServerDirectory, output: PatientOutput
) -> int:
    if not config.restart:
        values = {"resume": False, **values}  # nothing comes back to go on with
    topology = Topology(values, str(directory.path))
    terminal = terminal_of(config.log_format, output)
    terminal.line(_headline(values))
    checklist = Checklist(
        terminal, config.log_level, lambda seconds, reports: _closing(terminal, values, seconds, reports)
    )
    launcher = build(LauncherConfig, {**values, "run_dir": str(directory.path), "name": "launcher-0"})
    policy = RestartOnLoss() if config.restart else StopOnLoss()
    supervisor = Supervisor(launcher, topology.spec, checklist, policy)
    supervisor.stop_on_signals()
    # Suspended, it would be killed after --stall-limit, and the server with it: see frozen_launcher.py.
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)
    specs = [
        *topology.several("frontend", config.frontends),
        *topology.replica(),
        *topology.several("tokenizer", config.tokenizers),
    ]
    try:
        is_stopped_by_operator = supervisor.run(specs)
    finally:
        directory.remove(supervisor.names_used)
    if is_stopped_by_operator:
        return 0
    terminal.line(f"quire: stopped: {supervisor.cause}")
    return 1


def _headline(values: dict[str, Any]) -> str:
    from quire import __version__

    return f"Quire {__version__} serves {values.get('model') or 'the demo model'}"


def _closing(terminal: Terminal, values: dict[str, Any], seconds: float, reports: dict[str, Report]) -> list[str]:
    frontend = build(FrontendConfig, values)
    host = "127.0.0.1" if frontend.host in ("0.0.0.0", "::", "") else frontend.host
    url = f"http://[{host}]:{frontend.port}" if ":" in host else f"http://{host}:{frontend.port}"
    names = next((report.card.names for report in reports.values() if report.card and report.card.names), [])
    body = json.dumps(
        {"model": names[0] if names else "", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
    )
    key = " -H 'Authorization: Bearer '$QUIRE_API_KEY" if frontend.api_key or frontend.api_key_file else ""
    return [
        terminal.bold(f"Quire is ready at {url} in {seconds:.1f} s"),
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'",
    ]
