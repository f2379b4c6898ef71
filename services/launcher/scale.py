"""`quire scale tokenizer=K`: asks a live server's launcher to change the number of a service.

The launcher's side is in scaling.py.
"""

from __future__ import annotations

import argparse

from quire.shared.messages import Scale

from .operator_link import add_flags, carry_out

_PLURALS = {"tokenizers": "tokenizer", "frontends": "frontend"}


def scale(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="quire scale",
        description="Change the number of tokenizers or frontends of a live server. "
        "Those that go finish their requests first.",
    )
    parser.add_argument("target", metavar="SERVICE=COUNT", help="for example tokenizer=4")
    add_flags(parser, timeout_seconds=120.0)
    given = parser.parse_args(argv)
    service, _, count = str(given.target).partition("=")
    if not count.isdigit():
        parser.error(f"{given.target!r} is not SERVICE=COUNT, for example tokenizer=4")
    return carry_out(Scale(_PLURALS.get(service, service), int(count)), given.run_dir, given.timeout)
