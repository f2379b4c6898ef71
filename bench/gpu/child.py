"""The process that sections run in, one after the other: a section's name comes in, an Outcome goes out.

One process for all, so that torch is imported once; __main__.py kills it when a section takes too long, and goes
on in another one. What sections print is not mixed with what it answers.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import traceback

import msgspec

from .setting import Outcome, Setting

_LAST_LINES = 6


class Answer(msgspec.Struct):
    """Of one section; `error` in place of an outcome."""

    seconds: float
    outcome: Outcome | None = None
    error: str = ""


def main() -> None:
    setting = msgspec.json.decode(sys.argv[1], type=Setting)
    answers = os.fdopen(int(sys.argv[2]), "wb", buffering=0)
    for line in sys.stdin:
        begin = time.monotonic()
        try:
            module = importlib.import_module(f"bench.gpu.{line.strip()}")
            outcome = module.run(setting)
        except Exception as error:
            lines = traceback.format_exc().strip().splitlines()[-_LAST_LINES:]
            print("\n".join(lines), file=sys.stderr)
            answer = Answer(time.monotonic() - begin, error=f"{type(error).__name__}: {error}")
        else:
            answer = Answer(time.monotonic() - begin, outcome)
            setting.learn(line.strip(), outcome.figures)
        answers.write(msgspec.json.encode(answer) + b"\n")


if __name__ == "__main__":
    main()
