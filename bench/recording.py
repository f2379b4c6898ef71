"""How a measurement is written down: percentiles, tables, and JSON that names commit, machine and command.

Used by every benchmark, so that figures under results/ can be compared. Knows nothing of what was measured.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"


def percentile(values: Sequence[float], share: float) -> float:
    """Between the nearest two of the sorted values; NaN of none. `share` from 0 to 100."""
    if not values:
        return math.nan
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Mean, p50, p90, p99 and maximum."""
    mean = sum(values) / len(values) if values else math.nan
    shares = {f"p{share}": percentile(values, share) for share in (50, 90, 99)}
    return {"mean": mean, **shares, "max": max(values, default=math.nan)}


def medians(rounds: Sequence[Any]) -> Any:
    """One result from those of several rounds: each number the median of its own, all else from the first."""
    first = rounds[0]
    if isinstance(first, dict):
        return {key: medians([one[key] for one in rounds if key in one]) for key in first}
    if isinstance(first, (int, float)) and not isinstance(first, bool):
        middle = percentile([value for value in rounds if not math.isnan(value)], 50)
        return int(middle) if isinstance(first, int) and middle == int(middle) else middle
    return first


def machine() -> dict[str, Any]:
    """What the figures depend on: processor, memory, software, and what others were doing."""
    model, flags = "unknown", ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
            elif name.strip() == "flags" and not flags:
                flags = value
    except OSError:
        model = platform.processor() or model
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8")
    return {
        "cpu": model,
        "isa": [name for name in wanted if f" {name} " in f" {flags} "],
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def commit() -> str:
    """The checked-out commit, with `+` if tracked files differ from it; empty outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        run = ["git", "-C", str(here)]
        head = subprocess.run([*run, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*run, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def record(name: str, results: Any, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """What is written for one run of benchmark `name`."""
    return {
        "benchmark": name,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": " ".join([_program(sys.argv[0]), *_public(sys.argv[1:])]),
        "machine": machine(),
        "settings": settings or {},
        "results": results,
    }


def _program(argv0: str) -> str:
    """How this program is called: a script by its path in the checkout, an installed command by its name."""
    script, checkout = Path(argv0).resolve(), RESULTS.parent.parent
    if script.suffix == ".py" and script.is_relative_to(checkout):
        return f"python {script.relative_to(checkout)}"
    return Path(argv0).name


def _public(argv: Sequence[str]) -> list[str]:
    """The arguments without a key."""
    kept, is_secret = [], False
    for argument in argv:
        secret_here = argument.startswith("--api-key=")
        kept.append("***" if is_secret else "--api-key=***" if secret_here else argument)
        is_secret = argument == "--api-key"
    return kept


def _finite(value: Any) -> Any:
    """JSON has no NaN: null instead. Six digits are more than any of this is worth."""
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def write(recorded: dict[str, Any], path: str | Path) -> Path:
    """As JSON; a bare name goes to results/."""
    file = Path(path)
    if file.parent == Path() and not file.is_absolute():
        file = RESULTS / file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(_finite(recorded), indent=1) + "\n")
    return file


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns side by side: the first to the left, the others to the right."""
    cells = [[_shown(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    lines = []
    for row in cells:
        first, *others = (cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        lines.append("  ".join([first.strip().ljust(widths[0]), *others]).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _shown(cell: Any) -> str:
    if not isinstance(cell, float):
        return f"{cell:,}" if isinstance(cell, int) else str(cell)
    if not math.isfinite(cell):
        return "-"
    return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.1f}" if abs(cell) >= 100 else f"{cell:.2f}"
