"""The native library's file: compiled once, found again, never taken from others; torch wherever there is none."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from quire import kernels
from quire.kernels import dispatch
from quire.kernels.cpu.native import __main__ as prebuild
from quire.kernels.cpu.native import build, library, self_test

LEVEL = next(iter(build.supported_levels()), None)
ROOT = Path(__file__).resolve().parents[3]
pytestmark = pytest.mark.skipif(LEVEL is None, reason="this CPU has no instruction set that we compile for")


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small library's source in place of ours, an empty cache, nothing prebuilt and no library loaded."""
    try:
        build.compiler()
    except build.BuildError as error:
        pytest.skip(str(error))
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "one.cpp").write_text(
        'extern "C" __attribute__((visibility("default"))) long quire_one() { return 1; }\n'
    )
    (folder / "two.h").write_text("// nothing\n")
    monkeypatch.setattr(build, "SOURCE", folder)
    monkeypatch.setattr(build, "PREBUILT", tmp_path / "prebuilt")
    monkeypatch.setattr(library, "_loaded", None)
    monkeypatch.setattr(library, "_declared", [])
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    return folder


@pytest.fixture(autouse=True)
def torch_afterwards() -> Iterator[None]:
    yield
    kernels.use("torch")


def remove_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")


def one_of(path: Path) -> int:
    return library._open(path).quire_one()


def test_a_library_is_compiled_once_and_leaves_nothing_else(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build.library_path(LEVEL)
    assert one_of(path) == 1
    assert os.listdir(path.parent) == [path.name]
    assert path.parent.stat().st_mode & 0o077 == 0
    remove_compiler(monkeypatch)
    assert build.library_path(LEVEL) == path


@pytest.mark.parametrize("name", ["one.cpp", "two.h"])
def test_a_changed_source_is_another_library(source: Path, name: str) -> None:
    before = build.prebuilt_path(LEVEL)
    (source / name).write_text((source / name).read_text() + "// more\n")
    assert build.prebuilt_path(LEVEL) != before


def test_each_instruction_set_is_a_library_of_its_own() -> None:
    assert len({build.prebuilt_path(level) for level in build.LEVELS}) == len(build.LEVELS)


def test_half_a_library_is_compiled_again(source: Path) -> None:
    path = build.library_path(LEVEL)
    content = path.read_bytes()
    for half in (content[: len(content) // 2], b"", content[:-1]):
        path.write_bytes(half)
        assert build.library_path(LEVEL) == path
        assert path.read_bytes() == content


def test_two_processes_may_compile_at_once(source: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from quire.kernels.cpu.native import build, library;"
        "build.SOURCE = Path(sys.argv[1]);"
        "print(library._open(build.library_path(sys.argv[2])).quire_one())"
    )
    command = [sys.executable, "-c", script, str(source), str(LEVEL)]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in running] == ["1", "1"]
    assert len(os.listdir(build.cache_folder())) == 1


def test_an_image_brings_what_it_was_compiled_for(source: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(prebuild, "PREBUILT", build.PREBUILT)
    prebuild.main()
    assert capsys.readouterr().out.split() == [str(build.prebuilt_path(level)) for level in build.LEVELS]
    remove_compiler(monkeypatch)
    monkeypatch.setenv("QUIRE_CACHE_DIR", os.devnull)
    assert build.library_path(LEVEL) == build.prebuilt_path(LEVEL)
    assert one_of(build.prebuilt_path(LEVEL)) == 1


def test_an_image_without_a_compiler_is_told_so(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prebuild, "PREBUILT", build.PREBUILT)
    remove_compiler(monkeypatch)
    with pytest.raises(SystemExit, match=r"were not compiled: there is no g\+\+"):
        prebuild.main()


def test_a_folder_others_may_write_to_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache").chmod(0o777)
    with pytest.raises(build.BuildError, match="can be written to by others"):
        build.cache_folder()


def test_a_folder_that_others_may_replace_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setenv("QUIRE_CACHE_DIR", str(tmp_path / "open" / "cache"))
    with pytest.raises(build.BuildError, match="can be written to by others"):
        build.cache_folder()
    (tmp_path / "open").chmod(0o1777)
    assert build.cache_folder() == tmp_path / "open" / "cache"


def test_without_a_home_the_cache_is_beside_other_temporary_files(
    source: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("QUIRE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert build.cache_folder() == tmp_path / "cache" / "quire"
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert build.cache_folder() == tmp_path / f"quire-{os.getuid()}"


def no_compiler(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_compiler(monkeypatch)


def a_broken_source(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source / "one.cpp").write_text("nonsense\n")


def no_folder(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUIRE_CACHE_DIR", os.path.join(os.devnull, "cache"))


def a_library_without_its_functions(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library.function("two")


def a_library_of_something_else(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = build.cache_folder() / build.prebuilt_path(str(LEVEL)).name
    path.write_bytes(b"no library" + build._seal(b"no library"))


def another_cpu(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "supported_levels", list)


@pytest.mark.parametrize(
    ("fault", "brief", "sentence"),
    [
        (no_compiler, "no g++", "there is no g++"),
        (a_broken_source, "compiling failed", "nonsense"),
        (no_folder, "no cache", "Not a directory"),
        (a_library_without_its_functions, "broken library", "no function two"),
        (a_library_of_something_else, "broken library", "cannot be loaded"),
        (another_cpu, "no AVX2", "neither AVX2 nor AVX512"),
    ],
)
def test_without_a_library_torch_computes_and_one_line_says_why(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault, brief: str, sentence: str
) -> None:
    fault(source, monkeypatch)
    with caplog.at_level(logging.INFO, "quire.kernels"):
        assert kernels.use("auto") == kernels.backend_name("cpu") == f"torch ({brief})"
    (record,) = caplog.records
    assert record.levelno == logging.INFO and sentence in record.getMessage()
    assert dispatch.backend_of(torch.empty(1)) is dispatch.cpu
    with pytest.raises(build.BuildError, match=sentence.replace("+", r"\+")):
        kernels.use("native")


def test_a_library_that_computes_something_else_is_not_used(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def check() -> None:
        raise AssertionError("sums in bfloat16")

    wrong = SimpleNamespace(__name__="native.wrong", check=check)
    monkeypatch.setattr(self_test, "MODULES", (wrong,))
    assert kernels.use("auto") == "torch (self-test failed)"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "wrong differs from torch: sums in bfloat16" in record.getMessage()


def test_every_operation_is_there_under_its_name() -> None:
    assert set(dispatch.native.__all__) >= set(dispatch.cpu.__all__)
    assert all(callable(getattr(dispatch.native, name)) for name in dispatch.native.__all__)


def test_each_library_passes_its_self_test(level: str) -> None:
    self_test.run()


def test_torch_serves_until_native_kernels_are_asked_for(level: str) -> None:
    assert kernels.use("torch") == kernels.backend_name("cpu") == "torch"
    assert dispatch.backend_of(torch.empty(1)) is dispatch.cpu
    assert kernels.use("auto") == kernels.use("native") == f"native ({LEVEL})"
    assert dispatch.backend_of(torch.empty(1)) is dispatch.native
