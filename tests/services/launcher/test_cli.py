"""The `quire` command as a person meets it: help, version, and errors of one line."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from quire import __version__
from quire.services.launcher.cli import COMMANDS, main
from quire.services.launcher.keys import keys
from quire.services.launcher.serve_flags import parse_values
from quire.shared.link import Keys

from .conftest import ROOT


def quire(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quire", *arguments]
    added = {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **added}, cwd="/tmp")


def refusal(*arguments: str, **environment: str) -> str:
    """The one line that a command which exits with 1 has for its error."""
    done = quire(*arguments, **environment)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("quire: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert all(f"quire {name}" in text for name in COMMANDS)


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"quire {__version__}\n"


def test_an_unknown_command_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sevre"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "quire: there is no command 'sevre'; did you mean 'serve'?\n"


@pytest.mark.parametrize("command", [["serve"], ["chat"], ["scale"], ["health"], ["keys"], ["run", "engine"]])
def test_every_command_explains_its_flags(command: list[str]) -> None:
    done = quire(*command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: quire {' '.join(command)}")


def test_a_port_in_use_is_one_line() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        assert f"port {port} on 127.0.0.1 is in use" in refusal("serve", "--port", str(port))


def test_an_unknown_folder_is_one_line() -> None:
    assert "/no/such/model does not exist" in refusal("serve", "/no/such/model", "--port", "0")


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    assert "has no config.json" in refusal("serve", str(tmp_path), "--port", "0")


def test_an_unsupported_architecture_is_one_line(tmp_path: Path) -> None:
    config = {"model_type": "mamba", "architectures": ["MambaForCausalLM"], "vocab_size": 10, "hidden_size": 8}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "Mamba" in refusal("serve", str(tmp_path), "--port", "0")


def test_a_run_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert "mode 0700" in refusal("serve", "--port", "0", "--run-dir", str(tmp_path))


def test_a_bad_flag_names_its_bounds() -> None:
    done = quire("serve", "--max-num-seqs", "0")
    assert done.returncode == 2
    assert "--max-num-seqs: 0 is out of range: 1 <= value <= 4096" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--max-num-sqs", "3"], "there is no flag --max-num-sqs; did you mean --max-num-seqs?"),
        (["--no-such-thing=3"], "there is no flag --no-such-thing; quire serve --help lists them"),
        (["one", "two"], "one MODEL is enough, not also two"),
    ],
)
def test_an_unknown_flag_is_one_line(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", *arguments])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(f"quire serve: error: {sentence}\n")


def test_a_bad_variable_is_named() -> None:
    done = quire("serve", QUIRE_PORT="eighty")
    assert done.returncode == 2
    assert "QUIRE_PORT: 'eighty' is not a int" in done.stderr


def test_flags_win_over_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_PORT", "9000")
    monkeypatch.setenv("QUIRE_MODEL", "/models/one")
    values = parse_values(["/models/two", "--tokenizers", "3"])
    assert (values["port"], values["model"], values["tokenizers"]) == (9000, "/models/two", 3)


def test_an_unknown_service_is_refused() -> None:
    done = quire("run", "router")
    assert done.returncode == 2
    assert "frontend,tokenizer,engine,worker" in done.stderr


def test_a_key_file_is_closed_to_others_and_never_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys.json"
    assert keys([str(path)]) == 0
    made = Keys.load(path)
    assert len(made.public) == 40
    assert keys([str(path)]) == 1
    assert "File exists" in capsys.readouterr().err
    assert Keys.load(path) == made
