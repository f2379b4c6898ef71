"""The links of the import root, and the wheel built from them."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["services", "shared", "kernels"])
def test_the_import_root_links_to_the_top_level(name: str) -> None:
    link = ROOT / "quire" / name
    assert link.is_symlink()
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == ROOT / name


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


def test_a_wheel_holds_real_files_of_package_quire_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.infolist()
    names = {entry.filename for entry in entries}
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"quire"}
    assert all((entry.external_attr >> 16) & 0o170000 != 0o120000 for entry in entries)
    for part in ("services", "shared", "kernels"):
        sources = [file for end in ("py", "cpp", "h") for file in (ROOT / part).rglob(f"*.{end}")]
        missing = {f"quire/{file.relative_to(ROOT)}" for file in sources} - names
        assert not missing
    assert "quire/shared/demo_model/model.safetensors" in names
    assert "quire/bench/serving.py" in names
    assert "quire/py.typed" in names


def test_an_installed_wheel_runs_and_shadows_nothing(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(install, check=True, capture_output=True)
    script = (
        "import importlib.util, quire, quire.shared.messages\n"
        f"assert quire.__file__.startswith({str(target)!r})\n"
        "print(quire.__version__, importlib.util.find_spec('kernels'), importlib.util.find_spec('shared'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(target)}
    run = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "check": True}
    assert subprocess.run([sys.executable, "-c", script], **run).stdout.endswith("None None\n")
    command = subprocess.run([sys.executable, str(target / "bin" / "quire"), "--version"], **run)
    assert command.stdout.startswith("quire ")
    for name in ("serve", "offline", "startup"):
        bench = subprocess.run([sys.executable, str(target / "bin" / "quire"), "bench", name, "--help"], **run)
        assert "usage:" in bench.stdout
