"""Every example of the docs is run, but those that say they are not, against a server of the demo model."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from quire.services.launcher.cli import COMMANDS
from quire.services.launcher.serve_flags import parse_values
from quire.shared.config import all_fields
from quire.shared.config_file import tomllib

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(
    r"(?:<!-- not run: (?P<why>[^\n]+) -->\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)


class Example(msgspec.Struct, frozen=True):
    page: str
    number: int
    kind: str
    text: str
    why_not: str | None

    def __str__(self) -> str:
        return f"{self.page}-{self.number}-{self.kind}"


def examples() -> Iterator[Example]:
    for page in PAGES:
        for number, found in enumerate(_BLOCK.finditer(page.read_text(encoding="utf-8")), 1):
            yield Example(page.name, number, found["kind"], found["text"], found["why"])


RUN = [example for example in examples() if example.why_not is None and example.kind in ("sh", "python")]
NOT_RUN = [example for example in examples() if example.why_not is not None]


@pytest.mark.parametrize("example", RUN, ids=str)
def test_an_example_does_what_it_says(example: Example, demo, tmp_path: Path) -> None:
    text = example.text.replace("http://127.0.0.1:8000", demo.url)
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "QUIRE_THREADS": "1",
    }
    # .venv/bin is written out where a reader may be in the checkout without the environment switched on.
    text = text.replace(".venv/bin/quire chat", "echo Hello | quire chat --url " + demo.url)
    command = [sys.executable, "-c", text] if example.kind == "python" else ["sh", "-ec", text]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or done.stderr.strip()
    assert "Traceback" not in done.stderr and '"error":{' not in done.stdout


@pytest.mark.parametrize("example", NOT_RUN, ids=str)
def test_what_is_not_run_is_at_least_spelled_right(example: Example) -> None:
    if example.kind == "python":
        ast.parse(example.text)
    for line in example.text.splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["quire"]:
            assert words[1] in COMMANDS
            for flag in (word for word in words if word.startswith("--")):
                assert flag[2:].replace("-", "_") in all_fields(), flag
    for content in re.findall(r"<<END\n(.*?)^END$", example.text, re.DOTALL | re.MULTILINE):
        tomllib.loads(content)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_that_a_page_names_are_there(page: Path) -> None:
    """In running text: of the server's flags, and of nothing else that has flags."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    known = {field.option for field in all_fields().values()}
    known |= {f"--no-{option[2:]}" for option in known}
    if page.parent.name == "docs":
        named = set(re.findall(r"`(--[a-z][a-z-]+)[^`]*`", text))
        assert named <= known | {"--url", "--rate", "--rounds", "--port"}, named - known


def test_the_settings_file_of_the_docs_is_one(tmp_path: Path) -> None:
    (content,) = re.findall(r"<<END\n(.*?)^END$", (ROOT / "docs/serving.md").read_text(), re.DOTALL | re.MULTILINE)
    (tmp_path / "quire.toml").write_text(content)
    assert parse_values(["--config", str(tmp_path / "quire.toml")])["kv_cache_memory"] == 8 << 30


def test_every_page_is_in_the_list() -> None:
    listed = set(re.findall(r"\]\(([a-z-]+\.md)\)", (ROOT / "docs/README.md").read_text()))
    assert listed == {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
