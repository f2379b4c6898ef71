"""The `quire` command: which subcommand was asked for.

A table of names; what a command needs is imported only when it is the one that runs, so that
`quire --help` stays quick. Knows nothing of what the commands do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

Command = Callable[[list[str]], int]


def _serve(argv: list[str]) -> int:
    from .serve_flags import parse_values

    values = parse_values(argv)
    from .serve import serve

    return serve(values)


def _run(argv: list[str]) -> int:
    from .run_service import run_service

    return run_service(argv)


def _scale(argv: list[str]) -> int:
    from .scale import scale

    return scale(argv)


def _restart(argv: list[str]) -> int:
    from .restart import restart

    return restart(argv)


def _chat(argv: list[str]) -> int:
    from .chat import chat

    return chat(argv)


def _complete(argv: list[str]) -> int:
    from .complete import complete

    return complete(argv)


def _batch(argv: list[str]) -> int:
    from .batch import batch

    return batch(argv)


def _health(argv: list[str]) -> int:
    from .health import health

    return health(argv)


def _bench(argv: list[str]) -> int:
    from .bench import bench

    return bench(argv)


def _doctor(argv: list[str]) -> int:
    from .doctor import doctor

    return doctor(argv)


def _plan(argv: list[str]) -> int:
    from .plan import plan

    return plan(argv)


def _keys(argv: list[str]) -> int:
    from .keys import keys

    return keys(argv)


COMMANDS: dict[str, tuple[Command, str, str]] = {
    "serve": (_serve, "[MODEL] [flags]", "serve a model over HTTP; the bundled demo model if none is named"),
    "chat": (_chat, "[MODEL] | [--url URL]", "chat in the terminal, with a running server or one of its own"),
    "complete": (_complete, "[TEXT]", "continue a text on a server"),
    "batch": (_batch, "-i IN -o OUT [MODEL]", "answer a file of requests in OpenAI's batch format"),
    "scale": (_scale, "tokenizer=K", "change the number of tokenizers (or frontends) of a live server"),
    "restart": (_restart, "tokenizer", "replace tokenizers, engine or workers of a live server; no request fails"),
    "run": (_run, "SERVICE [flags]", "run one service: frontend, tokenizer, engine (with its workers), worker"),
    "bench": (_bench, "serve|offline|startup", "measure a server, the model without one, or the start"),
    "health": (_health, "SERVICE", "tell whether the services of a kind that run here are ready"),
    "plan": (_plan, "MODEL", "does it fit? the memory plan of a server, without loading the model"),
    "doctor": (_doctor, "[MODEL]", "look for what would keep a server from running here, or running well"),
    "keys": (_keys, "FILE", "make the key file that services on several hosts share"),
}


def usage() -> str:
    lines = ["Quire serves large language models.", "", "usage: quire COMMAND ...", ""]
    for name, (_, arguments, summary) in COMMANDS.items():
        lines.append(f"  quire {name + ' ' + arguments:<26} {summary}")
    lines += ["", "  quire COMMAND --help     all flags of a command", "  quire --version"]
    return "\n".join(lines)


def _meant(name: str) -> str:
    import difflib

    near = difflib.get_close_matches(name, COMMANDS, 1)
    return f"; did you mean {near[0]!r}?" if near else "; quire --help lists them"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help", "help"):
        print(usage())
        sys.exit(0 if arguments else 2)
    if name in ("-V", "--version", "version"):
        from quire import __version__

        print(f"quire {__version__}")
        sys.exit(0)
    if name not in COMMANDS:
        print(f"quire: there is no command {name!r}{_meant(name)}", file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(COMMANDS[name][0](arguments[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(1)
