"""Who may import whom: the table of ARCHITECTURE.md, enforced by reading every import."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAY_IMPORT = {
    "kernels": set(),
    "shared": set(),
    "services/frontend": {"shared"},
    "services/tokenizer": {"shared"},
    "services/engine": {"shared"},
    "services/launcher": {"shared"},
    "services/worker": {"shared", "kernels"},
}
"""Part -> the other parts it may import. Each may import itself, and `quire` for its version."""

ONLY_IN = {
    "torch": {"services/worker", "kernels"},
    "triton": {"services/worker", "kernels"},
    "starlette": {"services/frontend"},
    "uvicorn": {"services/frontend"},
    "opentelemetry": {"services/frontend/spans.py"},
    "zmq": {"shared/link.py"},
    "tokenizers": {"services/tokenizer"},
    "jinja2": {"services/tokenizer"},
    "llguidance": {"services/tokenizer", "services/engine"},
}
"""Package -> the only places that may import it."""

BANNED = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib", "multiprocessing", "pydantic"}
BANNED_CALLS = {"eval", "exec", "compile", "__import__"}
BANNED_ATTRIBUTES = {("torch", "load"), ("torch", "save"), ("os", "fork"), ("os", "system"), ("numpy", "load")}


def sources() -> list[Path]:
    parts = [ROOT / part for part in ("kernels", "shared", "services")]
    files = [file for part in parts for file in sorted(part.rglob("*.py"))]
    return [*files, *sorted((ROOT / "quire").glob("*.py"))]


def part_of(file: Path) -> str:
    """The part of the tree a file belongs to, for example services/engine."""
    steps = file.relative_to(ROOT).parts
    return "/".join(steps[:2]) if steps[0] == "services" and len(steps) > 2 else steps[0]


def imported(file: Path) -> Iterator[tuple[str, bool]]:
    """(dotted name, is relative) of every import in a file, at any depth; relative ones resolved in the tree."""
    here = list(file.relative_to(ROOT).with_suffix("").parts)[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, False
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            yield ".".join(["quire", *base, *(node.module or "").split(".")]).rstrip("."), True
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield module, False
            yield from ((f"{module}.{alias.name}", False) for alias in node.names)


def ours(name: str) -> str | None:
    """The part that an import of ours names; None for foreign packages and for quire itself."""
    steps = name.split(".")
    if steps[0] != "quire" or len(steps) < 2 or steps[1] not in ("services", "shared", "kernels"):
        return None
    return "/".join(steps[1:3]) if steps[1] == "services" else steps[1]


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_part_imports_only_what_the_table_allows(file: Path) -> None:
    part = part_of(file)
    if part in ("quire", "services"):
        return
    for name, is_relative in imported(file):
        target = ours(name)
        if target is not None and target != part:
            assert target in MAY_IMPORT[part], f"{part} imports {name}"
            assert not is_relative, f"{name} crosses a border by a relative import"


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_of_ours_is_imported_by_another_name(file: Path) -> None:
    for name, is_relative in imported(file):
        assert is_relative or name.split(".")[0] not in ("services", "shared", "kernels", "tests", "bench"), name


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_heavy_packages_stay_where_they_belong(file: Path) -> None:
    place = str(file.relative_to(ROOT))
    for name, is_relative in imported(file):
        places = ONLY_IN.get(name.split(".")[0])
        if places is not None and not is_relative:
            assert part_of(file) in places or place in places, f"{place} imports {name}"


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_no_object_deserialiser_and_no_code_from_text(file: Path) -> None:
    for name, _ in imported(file):
        assert name.split(".")[0] not in BANNED, f"imports {name}"
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in BANNED_CALLS, f"line {node.lineno} calls {node.func.id}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert (node.value.id, node.attr) not in BANNED_ATTRIBUTES, (
                f"line {node.lineno}: {node.value.id}.{node.attr}"
            )
        if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
            is_refusal = isinstance(node.value, ast.Constant) and node.value.value is False
            assert is_refusal, f"line {node.value.lineno} trusts remote code"


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_assert_is_no_run_time_check(file: Path) -> None:
    lines = [
        node.lineno for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Assert)
    ]
    assert not lines, f"assert in line {lines}"


def loaded_by(module: str) -> set[str]:
    """Top-level packages that are loaded once `module` is imported, in a fresh interpreter."""
    script = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "module",
    [
        "quire.services.frontend.service",
        "quire.services.tokenizer.process",
        "quire.services.engine.service",
        "quire.services.launcher.serve",
        "quire.services.launcher.llm",
    ],
)
def test_only_the_worker_loads_torch(module: str) -> None:
    assert not loaded_by(module) & {"torch", "transformers", "triton"}


HEAVY = {
    "torch", "transformers", "tokenizers", "zmq", "starlette", "uvicorn", "uvloop", "jinja2", "numpy", "llguidance",
    "asyncio", "importlib_metadata", "packaging",
}  # fmt: skip


def test_the_command_line_loads_nothing_heavy() -> None:
    assert not loaded_by("quire") & {*HEAVY, "msgspec"}
    assert not loaded_by("quire.services.launcher.cli") & {*HEAVY, "msgspec"}


@pytest.mark.parametrize(
    "command",
    ["--help", "serve --help", "serve --nonsense", "chat --help", "complete --help", "batch --help", "bench --help",
     "doctor --help"],
)  # fmt: skip
def test_help_and_a_wrong_flag_are_answered_before_anything_heavy_is_loaded(command: str) -> None:
    script = (
        "import sys; from quire.services.launcher.cli import main\n"
        f"try: main({command.split()!r})\n"
        "except SystemExit: print(*{name.partition('.')[0] for name in sys.modules}, 'asked')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "asked" in loaded
    assert not loaded & HEAVY
