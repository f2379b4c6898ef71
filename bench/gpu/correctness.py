"""Whether what is measured is right: the kernels' tests on this device, and whole models against the CPU's."""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import re
import sys
from collections.abc import Iterator
from typing import Any

from quire.shared import model_files

from .commands import python
from .loop import Loop
from .setting import ROOT, Outcome, Setting
from .timing import release

_PROMPT_LENGTHS = (1, 15, 16, 17, 70, 130)
_OUTPUT_LEN = 24
_TESTS_SECONDS = 140.0
"""Of the section's, so that whole models are still compared where the tests hang."""


def run(setting: Setting) -> Outcome:
    outcome = Outcome(["check", "result"], [])
    mode = "gpu" if setting.device == "cuda" else "ref"
    tests = "tests/kernels/triton" + ("/test_norm.py" if setting.is_tiny else "")
    arguments = ["-m", "pytest", "-q", "-p", "no:cacheprovider", tests, "--tb=line", "-W", "ignore"]
    # What is compiled or interpreted without a GPU was tested without one.
    arguments += [f"--ignore=tests/kernels/triton/{name}.py" for name in ("test_compile", "test_interpreted")]
    if not setting.is_tiny and importlib.util.find_spec("xdist") is not None:
        # Most of their time goes to compiling one variant after the other.
        arguments += ["-n", str(min(8, len(os.sched_getaffinity(0))))]
    try:
        output = python(arguments, _TESTS_SECONDS, {"QUIRE_KERNEL_TESTS": mode})
    except RuntimeError as error:
        output = str(error)
        outcome.notes.append(output)
    found = re.findall(r"\d+ (?:passed|failed|skipped|error)s?", output)
    outcome.rows.append([f"{tests}, mode {mode}", ", ".join(found[-4:]) or "did not end"])
    for family, folder in _models(setting):
        try:
            _compare(setting, family, folder, outcome)
        except Exception as error:
            outcome.rows.append([f"{family}, float32", f"{type(error).__name__}: {str(error)[:200]}"])
        release(setting.device)
    said = " ".join(row[1] for row in outcome.rows)
    outcome.figures["is_right"] = not re.search(r"differ|rror|failed|did not end", said)
    return outcome


def _models(setting: Setting) -> Iterator[tuple[str, str]]:
    """A random checkpoint of each family; of a tiny run, the demo model, which needs no transformers."""
    if setting.is_tiny:
        yield "demo model", str(model_files.DEMO_MODEL)
        return
    sys.path.append(str(ROOT / "tests"))
    checkpoints: Any = importlib.import_module("checkpoints")
    for family in checkpoints.FAMILIES:
        yield family, str(checkpoints.make_checkpoint(family, setting.folder / family.replace(" ", "-")))


def _compare(setting: Setting, family: str, folder: str, outcome: Outcome) -> None:
    """Greedy tokens of mixed lengths, together here and one after the other on the CPU, in float32."""
    chance = random.Random(3)
    prompts = [[chance.randrange(3, 380) for _ in range(length)] for length in _PROMPT_LENGTHS]

    def tokens(device: str, at_once: bool) -> list[list[int]]:
        flags = ["--model", folder, "--device", device, "--dtype", "float32", "--kernels", "torch"]
        loop = Loop(flags, rows=8, budget=64, max_model_len=256, kv_cache_memory="16MiB")
        if at_once:
            return loop.run(prompts, _OUTPUT_LEN)[0]
        return [loop.run([prompt], _OUTPUT_LEN)[0][0] for prompt in prompts]

    pairs = list(zip(tokens(setting.device, True), tokens("cpu", False), strict=True))
    different = sum(ours != theirs for ours, theirs in pairs)
    said = f"{different} of {len(pairs)} answers differ" if different else f"{len(pairs)} answers are the same"
    outcome.rows.append([f"{family}, float32, against the CPU's", said])
