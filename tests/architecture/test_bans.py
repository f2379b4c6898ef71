"""What is never done, in the source and in a running process: see shared/forbidden.py."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire.shared.forbidden import EXIT_CODE, FORBIDDEN

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [file for part in ("kernels", "shared", "services", "quire") for file in sorted((ROOT / part).rglob("*.py"))]

BANNED_ATTRIBUTES = {
    "broadcast_object_list", "all_gather_object", "gather_object", "scatter_object_list", "send_object_list",
    "recv_object_list", "from_pretrained_remote", "set_forkserver_preload", "popen", "spawnl", "spawnv",
}  # fmt: skip
"""Wherever they come from: collectives of pickled objects, and shells."""
BANNED_FROM = {
    ("torch", "load"), ("torch", "save"), ("os", "system"), ("os", "fork"), ("os", "popen"), ("builtins", "eval"),
    ("builtins", "exec"),
}  # fmt: skip
UNBOUNDED_CACHES = {
    "services/frontend/bounds.py": "by the types of our own requests",
    "services/frontend/protocol.py": "by the types of our own requests",
    "services/frontend/submission.py": "by the model served",
    "services/frontend/output_machine.py": "by the table of output formats",
    "shared/flags.py": "by the types of our own settings",
}
"""File -> why a cache without a bound cannot grow by what clients send."""
WORDS_OF_EXCEPTIONS = {
    "services/frontend/protocol.py": "msgspec's word for what it expected, out of a fixed set",
    "services/tokenizer/template_rendering.py": "the sentence of a template's raise_exception",
}


def name_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_no_collective_of_objects_no_shell_and_no_import_of_what_is_banned(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr not in BANNED_ATTRIBUTES, f"line {node.lineno}: {node.attr}"
        if isinstance(node, ast.ImportFrom):
            names = {(node.module, alias.name) for alias in node.names}
            assert not names & BANNED_FROM, f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg in ("shell", "allow_pickle"):
            is_off = isinstance(node.value, ast.Constant) and node.value.value is False
            assert is_off, f"line {node.value.lineno}: {node.arg}"


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_an_assert_is_never_a_check(file: Path) -> None:
    """It is gone with python -O, and its failure is no answer to anybody."""
    assert not [node.lineno for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Assert)]


def unbounded_caches(file: Path) -> Iterator[int]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                text = ast.unparse(decorator)
                arguments = [ast.unparse(argument) for argument in node.args.args]
                if re.fullmatch(r"(functools\.)?(cache|lru_cache\(maxsize=None\))", text) and arguments:
                    yield node.lineno


@pytest.mark.parametrize("file", SOURCES, ids=name_of)
def test_every_cache_is_bounded_or_says_why_it_need_not_be(file: Path) -> None:
    if name_of(file).startswith(("services/frontend", "services/tokenizer", "services/engine", "shared")):
        assert not [*unbounded_caches(file)] or name_of(file) in UNBOUNDED_CACHES


@pytest.mark.parametrize(
    "file",
    [file for file in SOURCES if name_of(file).startswith(("services/frontend", "services/tokenizer"))],
    ids=name_of,
)
def test_no_exceptions_text_reaches_a_client(file: Path) -> None:
    """Inside `except ... as error`, no answer is made of `error` itself, nor of str(error)."""
    for handler in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None:
            continue
        for call in ast.walk(handler):
            if isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in ("ApiError", "refused"):
                for argument in call.args:
                    text = ast.unparse(argument)
                    is_whole = re.search(rf"str\({handler.name}\)|repr\({handler.name}\)|{{{handler.name}}}", text)
                    assert not is_whole or name_of(file) in WORDS_OF_EXCEPTIONS, f"line {call.lineno}: {text}"


SCRIPTS = {
    "pickle.find_class": "import pickle; pickle.loads(b\"cos\\nsystem\\n(S'true'\\ntR.\")",
    "marshal.load": "import io, marshal; marshal.load(io.BytesIO(marshal.dumps(1)))",
    "os.system": "import os; os.system('true')",
    "os.fork": "import os; os.fork()",
    "os.forkpty": "import os; os.forkpty()",
    "urllib.Request": "import urllib.request; urllib.request.urlopen('http://127.0.0.1:1/')",
}


def run(script: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=120
    )


@pytest.mark.parametrize("event", sorted(FORBIDDEN))
def test_a_service_that_does_what_is_forbidden_ends_and_says_so(event: str, tmp_path: Path) -> None:
    start = (
        "from quire.shared.config import TokenizerConfig; from quire.shared.service import bootstrap\n"
        f"bootstrap('tokenizer', TokenizerConfig, ['--run-dir', {str(tmp_path / 'run')!r}])\n"
    )
    done = run(start + SCRIPTS[event])
    assert done.returncode == EXIT_CODE
    assert done.stderr.strip().splitlines()[-1] == f"quire: ended itself: {event} must never happen in this process"


def test_every_service_and_the_launcher_of_a_server_forbid_it() -> None:
    for place in ("shared/service.py", "services/launcher/serve.py", "services/launcher/run_service.py"):
        assert "    forbid()\n" in (ROOT / place).read_text(), place
    for main in sorted((ROOT / "services").glob("*/__main__.py")):
        kind = main.parent.name
        sources = "".join(file.read_text() for file in main.parent.glob("*.py"))
        assert kind == "launcher" or f'bootstrap("{kind}"' in sources, kind


def test_torch_loads_and_computes_where_it_is_forbidden() -> None:
    script = (
        "from quire.shared.forbidden import forbid; forbid()\n"
        "import torch, safetensors, quire.services.worker.service\n"
        "print(torch.ones(2).sum().item())"
    )
    done = run(script)
    assert done.returncode == 0 and done.stdout == "2.0\n", done.stderr
