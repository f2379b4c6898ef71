"""Checks that every relative link in the Markdown files leads to a file. Prints those that do not."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def markdown_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]


def broken_links(file: Path) -> list[str]:
    """Targets, without their anchors, that do not exist beside `file`."""
    text = _FENCED.sub("", file.read_text(encoding="utf-8"))
    targets = [target.partition("#")[0] for target in _LINK.findall(text) if "://" not in target]
    return [target for target in targets if target and not (file.parent / target).exists()]


def main() -> int:
    found = [
        f"{file.relative_to(ROOT)}: {target} does not exist"
        for file in markdown_files()
        for target in broken_links(file)
    ]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
