"""The flags of `quire serve`: those of every service, but for what the launcher decides.

Apart from serve.py, so that help and a wrong flag are answered before anything is imported that starts services.
"""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from typing import Any

from quire.shared.config import CONFIG_TYPES, all_fields
from quire.shared.flags import add_to, settle

_NOT_OF_A_SERVER = ("name", "listen", "tokenizer_address", "engine_address", "workers")
"""Settings of single services: the launcher decides them."""


def parse_values(argv: Sequence[str]) -> dict[str, Any]:
    """The settings given, by field name; see flags.settle for who wins. Exits with 2 and a line on a bad one."""
    parser = argparse.ArgumentParser(
        prog="quire serve",
        usage="quire serve [MODEL] [flags]",
        description="Serve a model over an OpenAI-compatible HTTP API.",
        epilog="Every flag is also a variable (--max-num-seqs is QUIRE_MAX_NUM_SEQS) and a key of the --config file.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "checkpoint",
        metavar="MODEL",
        nargs="?",
        default=argparse.SUPPRESS,
        help="checkpoint folder, or hub id; the bundled demo model if absent",
    )
    added = add_to(parser, CONFIG_TYPES, without=_NOT_OF_A_SERVER)
    found, unknown = parser.parse_known_args(argv)
    if unknown:
        flag = unknown[0].partition("=")[0]
        near = difflib.get_close_matches(flag, [field.option for field in added.values()], 1)
        hint = f"; did you mean {near[0]}?" if near else "; quire serve --help lists them"
        parser.error(
            f"there is no flag {flag}{hint}" if flag.startswith("-") else f"one MODEL is enough, not also {flag}"
        )
    given = vars(found)
    if "checkpoint" in given:
        given["model"] = given.pop("checkpoint")
    try:
        return settle(added, given, all_fields())
    except ValueError as error:
        parser.error(str(error))
