"""Seconds from spawning a server to its first token, with an empty cache of compiled kernels and with a full one."""

from __future__ import annotations

from .commands import recorded
from .setting import Outcome, Setting


def run(setting: Setting) -> Outcome:
    model = setting.sizes.models[0]
    flags = [*setting.serve_flags(model), "--device", setting.device]
    flags += ["--kv-cache-memory", setting.sizes.kv_cache_memory]
    environment = {"TRITON_CACHE_DIR": str(setting.folder / "triton")}
    rows, figures = [], {}
    for what in ("empty",) if setting.is_tiny else ("empty", "full"):
        out = setting.folder / f"startup-{what}.json"
        found = recorded(["bench/startup.py", "--rounds", "1", *flags], out, 150, environment)["medians"]
        times = found["seconds"]
        rows.append([f"{model}, {what} cache", times["HTTP port answers"], times["ready"], times["first token"]])
        figures[what] = found
    return Outcome(["start", "port s", "ready s", "first token s"], rows, figures)
