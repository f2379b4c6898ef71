"""`quire restart frontend|tokenizer|engine|worker`: new processes for old on a live server, without a failed request.

The launcher's side is in rolling_restart.py.
"""

from __future__ import annotations

import argparse

from quire.shared.messages import Replace

from .operator_link import add_flags, carry_out
from .rolling_restart import RESTARTABLE


def restart(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="quire restart",
        description="Replace the processes of a kind on a live server, one after the other. No request fails: "
        "frontends let their clients finish (for --shutdown-timeout), tokenizers hand their requests to their "
        "successors; streams pause while an engine or its workers are started again.",
    )
    parser.add_argument("service", choices=RESTARTABLE)
    parser.add_argument("--one", metavar="NAME", default="", help="only this one, for example tokenizer-0")
    add_flags(parser, timeout_seconds=600.0)
    given = parser.parse_args(argv)
    return carry_out(Replace(given.service, given.one), given.run_dir, given.timeout)
