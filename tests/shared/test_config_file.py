"""The TOML file of settings: what may stand in it, who wins, and what a mistake is answered with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from quire.services.launcher.serve_flags import parse_values
from quire.shared import config, flags


@pytest.fixture
def written(tmp_path: Path):
    def write(text: str) -> str:
        file = tmp_path / "quire.toml"
        file.write_text(text, encoding="utf-8")
        return str(file)

    return write


def test_any_setting_may_stand_in_the_file_flat_or_in_the_tables_of_the_help(written) -> None:
    path = written("""
port = 9000
served-model-name = ["a", "b"]
prefix_caching = false

[memory]
kv-cache-memory = "2GiB"
memory_utilization = 0.5
block-size = 32

[access]
api-key = "only"
""")
    assert parse_values(["--config", path]) == {
        "port": 9000,
        "served_model_name": ("a", "b"),
        "prefix_caching": False,
        "kv_cache_memory": 2 << 30,
        "memory_utilization": 0.5,
        "block_size": 32,
        "api_key": ("only",),
    }


def test_flags_win_over_variables_which_win_over_the_file(written, monkeypatch) -> None:
    path = written("port = 1\nmax-num-seqs = 2\nblock-size = 8")
    monkeypatch.setenv("QUIRE_CONFIG", path)
    monkeypatch.setenv("QUIRE_PORT", "10")
    monkeypatch.setenv("QUIRE_MAX_NUM_SEQS", "20")
    values = parse_values(["--port", "100"])
    assert values == {"port": 100, "max_num_seqs": 20, "block_size": 8}


def test_a_single_service_takes_its_own_settings_and_leaves_the_others(written) -> None:
    path = written("port = 9000\nmax-num-seqs = 3\nfrontends = 2")
    parsed = flags.parse(config.EngineConfig, ["--config", path], all_fields=config.all_fields())
    assert parsed == config.EngineConfig(max_num_seqs=3)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("max-num-seq = 1", "there is no setting 'max-num-seq'; did you mean 'max_num_seqs'?"),
        ("max-num-seqs = 0", "max-num-seqs: 0 is out of range: 1 <= value <= 4096"),
        ("max-num-seqs = true", "max-num-seqs: True is not a int"),
        ("max-num-seqs = '8'", "max-num-seqs: '8' is not a int"),
        ("prefix-caching = 1", "prefix-caching: 1 is not a bool"),
        ("kv-cache-memory = 1.5", "kv-cache-memory: 1.5 is not a size"),
        ("kv-cache-memory = '1 potato'", "is not a size such as 512MiB"),
        ("dtype = 'float8'", "dtype: 'float8' is not one of auto"),
        ("port = 1\n[serving]\nport = 2", "'port' is there twice"),
        ("[gpu]\nport = 2", "there is no table [gpu]; there are access"),
        ("config = 'other.toml'", "there is no setting 'config'"),
        ("parent-pid = 1", "there is no setting 'parent-pid'"),
        ("port = ", "Invalid value"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file_and_the_key(written, capsys, text, complaint) -> None:
    path = written(text)
    with pytest.raises(SystemExit) as error:
        parse_values(["--config", path])
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert f"--config {path}: " in said and complaint in said


def test_a_file_that_is_not_there_is_named(capsys) -> None:
    with pytest.raises(SystemExit):
        parse_values(["--config", "/nowhere/quire.toml"])
    assert "--config /nowhere/quire.toml: No such file or directory" in capsys.readouterr().err


def test_children_get_flags_and_never_the_file(written) -> None:
    from quire.services.launcher.topology import Topology

    path = written("max-num-seqs = 5\napi-key = ['secret']")
    topology = Topology(parse_values(["--config", path]), "/run")
    engine, frontend = topology.spec("engine-0"), topology.spec("frontend-0")
    assert "--config" not in engine.command and "5" in engine.command
    assert "secret" not in frontend.command and frontend.environment == {"QUIRE_API_KEY": "secret"}


def test_the_help_begins_with_what_is_used_most_and_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom quire.services.launcher.cli import main\n"
        "try:\n    main(['serve', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'starlette', 'uvicorn', 'numpy', 'jinja2', 'tomllib'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "HEAVY []" in shown
    often = shown.partition("often used:")[2].partition("\n\n")[0]
    named = [line.split()[0] for line in often.splitlines() if line.startswith("  --")]
    assert {"--config", "--port", "--max-model-len", "--kv-cache-memory"} <= set(named) and len(named) <= 14
    assert shown.index("often used:") < shown.index("serving:")
