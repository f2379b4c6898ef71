"""Build hook: puts bench/*.py into the wheel as quire/bench, for `quire bench serve`.

Not into an editable install, where a folder quire/ in site-packages would hide the checkout.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PackageBench(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "standard":
            files = sorted((Path(self.root) / "bench").glob("*.py"))
            build_data["force_include"].update({str(file): f"quire/bench/{file.name}" for file in files})
