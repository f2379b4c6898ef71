"""The helper process: compiles and runs what clients wrote (templates, regexes, schemas, grammars), one at a time.

Started by untrusted.py with `python -m`, spoken to over its stdin and stdout, killed when it is over its
time. Gives up all it could do harm with before it reads the first program: memory, files, processes, rights.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import struct
import sys
from hashlib import blake2b
from typing import Any

import jinja2
import jinja2.debug  # loaded now: once confined, nothing can be
import llguidance
import msgspec
from llguidance.gbnf_to_lark import any_to_lark

from quire.shared.errors import ApiError, echo
from quire.shared.messages import Outcome, Program
from quire.shared.parent_process import die_with_parent

from .byte_lru import ByteLru
from .chat_messages import content_form
from .template_rendering import RenderLimits, make_environment, run

_TEMPLATE_CACHE_BYTES = 1 << 20
_NOBODY = 65534
_PR_SET_NO_NEW_PRIVS = 38
_FORBIDDEN = ("open", "socket", "subprocess", "import", "shutil", "pty", "pickle", "mmap")
_FORBIDDEN_OS = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.remove", "os.rename", "os.kill")


class Compiler:
    """What each kind of program is handled with. Templates are kept compiled, within a bound."""

    def __init__(self, limits: RenderLimits) -> None:
        self._limits = limits
        self._environment = make_environment(limits)
        self._templates: ByteLru[jinja2.Template] = ByteLru(_TEMPLATE_CACHE_BYTES)
        self._bytes_tokenizer = llguidance.LLTokenizer("byte")

    def outcome(self, program: Program) -> Outcome:
        """Raises MemoryError alone."""
        try:
            if program.kind == "template":
                return self._render(program)
            if program.kind == "content_form":
                return Outcome("ok", content_form(self._environment, program.source))
            if program.kind == "gbnf":
                return Outcome("ok", any_to_lark(program.source))
            if program.kind == "constraint":
                return self._check_constraint(program.source)
            return self._check(program)
        except ApiError as error:
            return Outcome("error", error.message)
        except jinja2.TemplateSyntaxError as error:
            return Outcome("error", f"the chat template is not valid Jinja (line {error.lineno})")
        except (RecursionError, OverflowError):
            return Outcome("error", "it is nested too deeply")
        except MemoryError:
            raise
        except Exception as error:
            if program.kind == "gbnf":
                return Outcome("error", _complaint(str(error)))
            return Outcome("error", "it cannot be compiled")

    def _render(self, program: Program) -> Outcome:
        key = blake2b(program.source.encode(), digest_size=16).digest()
        template = self._templates.get(key)
        if template is None:
            template = self._environment.from_string(program.source)
            self._templates.put(key, template, 32 * len(program.source))
        variables: dict[str, Any] = msgspec.json.decode(program.variables_json, type=dict[str, Any])
        return Outcome("ok", run(template, variables, self._limits))

    def _check_constraint(self, text: str) -> Outcome:
        """A constraint in llguidance's own form. Where it names tokens, they are the engine's to look up."""
        is_error, messages = llguidance.LLMatcher.validate_grammar_with_warnings(text)
        if is_error:
            return Outcome("error", _complaint(messages[0]))
        return Outcome("ok") if messages else self._compile(text)

    def _check(self, program: Program) -> Outcome:
        """Compiled for a tokenizer of single bytes, up to its first mask: the cost of some programs is only there."""
        matcher = llguidance.LLMatcher
        make = {
            "regex": matcher.grammar_from_regex,
            "json_schema": matcher.grammar_from_json_schema,
            "grammar": matcher.grammar_from_lark,
        }[program.kind]
        try:
            return self._compile(make(program.source))
        except ValueError as error:
            return Outcome("error", _complaint(str(error)))

    def _compile(self, text: str) -> Outcome:
        compiled = llguidance.LLMatcher(self._bytes_tokenizer, text, log_level=0)
        if not compiled.is_error():
            compiled.compute_logit_bias()
        return Outcome("error", _complaint(compiled.get_error())) if compiled.is_error() else Outcome("ok")


def _complaint(report: str) -> str:
    """What the compiler says of the client's own program, in one line and without its inner state."""
    return echo(" ".join(report.partition("<state>")[0].split()) or "it cannot be compiled")


def confine(memory_bytes: int) -> None:
    """No more files, sockets, processes or rights than this process has now, and so much address space."""
    if os.geteuid() == 0:
        with contextlib.suppress(OSError):
            os.setgroups([])
            os.setresgid(_NOBODY, _NOBODY, _NOBODY)
            os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    sys.addaudithook(_on_event)


def _on_event(event: str, _: object) -> None:
    if event.partition(".")[0] in _FORBIDDEN or event in _FORBIDDEN_OS:
        os._exit(13)


def read_frame() -> bytes:
    """The next program; empty at the end of the input."""
    head = sys.stdin.buffer.read(4)
    if len(head) < 4:
        return b""
    (length,) = struct.unpack("<I", head)
    return sys.stdin.buffer.read(length)


def write_frame(outcome: Outcome) -> None:
    payload = msgspec.msgpack.encode(outcome)
    sys.stdout.buffer.write(struct.pack("<I", len(payload)) + payload)
    sys.stdout.buffer.flush()


def warm_up(compiler: Compiler) -> None:
    """Load what is loaded at first use."""
    for source in (
        "{{ messages | tojson }}{{ strftime_now('%d %b %Y') }}",
        "{{ 1 / 0 }}",
        "{{ lipsum(1) }}",
        "{{ + }}",
    ):
        compiler.outcome(Program("template", source, b"{}"))
    for kind, source in (
        ("regex", "a+"),
        ("regex", "("),
        ("json_schema", '{"type": "object"}'),
        ("grammar", "x"),
        ("gbnf", 'root ::= "x"'),
    ):
        compiler.outcome(Program(kind, source))


def main() -> None:
    parent_pid, memory_bytes = int(sys.argv[1]), int(sys.argv[2])
    limits = RenderLimits(float(sys.argv[3]), int(sys.argv[4]))
    decoder = msgspec.msgpack.Decoder(Program)
    compiler = Compiler(limits)
    warm_up(compiler)
    confine(memory_bytes)
    die_with_parent(parent_pid)  # after the change of user, which would undo it
    write_frame(Outcome("ready"))
    while frame := read_frame():
        try:
            outcome = compiler.outcome(decoder.decode(frame))
            write_frame(outcome)
        except MemoryError:
            del frame
            write_frame(Outcome("memory"))
            return


if __name__ == "__main__":
    main()
