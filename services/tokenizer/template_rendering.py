"""Rendering of one Jinja template, sandboxed: a source and its variables in, a text out.

Runs in the tokenizer for the checkpoint's template, and in the helper process (untrusted_program.py) for
whatever a request may vary. Here time and output are bounded between pieces; in the helper by the kernel.
Knows no messages and no special tokens.
"""

from __future__ import annotations

import datetime
import json
import time
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import msgspec
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quire.shared.errors import CHAT_TEMPLATE_ERROR, ApiError, echo


class RenderLimits(msgspec.Struct, frozen=True):
    """Of one rendering."""

    seconds: float = 1.0
    max_chars: int = 16 << 20


_MAX_POWER_BITS = 4096


class _TemplateRaised(Exception):
    """raise_exception(...) in a template: its sentence is for the client."""


def _raise_exception(message: object) -> NoReturn:
    raise _TemplateRaised(str(message))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Unlike Jinja's own: no HTML escapes, which a model was not trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


class _GenerationBlock(jinja2.ext.Extension):
    """{% generation %}...{% endgeneration %}, which marks assistant text for training: only its body counts."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, and no operator whose one step takes for ever or all memory."""

    intercepted_binops = frozenset(("*", "**", "%"))
    max_chars = RenderLimits().max_chars

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" and _power_bits(left, right) > _MAX_POWER_BITS:
            raise SecurityError("a power is too large")
        if operator == "*" and _is_repetition_longer(left, right, self.max_chars):
            raise SecurityError("a repetition is too long")
        if operator == "%" and isinstance(left, str) and any(len(part) > 3 for part in _digits(left)):
            raise SecurityError("a format is too wide")
        return super().call_binop(context, operator, left, right)


def _power_bits(left: Any, right: Any) -> float:
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() * right
    return 0


def _is_repetition_longer(left: Any, right: Any, max_chars: int) -> bool:
    if isinstance(left, int) and isinstance(right, int):
        return left.bit_length() + right.bit_length() > _MAX_POWER_BITS
    for sequence, times in ((left, right), (right, left)):
        if isinstance(sequence, (str, bytes, list, tuple)) and isinstance(times, int):
            return len(sequence) * times > max_chars
    return False


def _digits(text: str) -> list[str]:
    return "".join(character if character.isdigit() else " " for character in text).split()


def make_environment(limits: RenderLimits = RenderLimits()) -> jinja2.Environment:  # noqa: B008  a frozen value
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.max_chars = limits.max_chars
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def run(template: jinja2.Template, variables: dict[str, Any], limits: RenderLimits = RenderLimits()) -> str:  # noqa: B008
    """Render piece by piece, so that a template that goes on for ever is ended. Raises ApiError (400)."""
    deadline = time.monotonic() + limits.seconds
    pieces: list[str] = []
    length = 0
    try:
        for piece in template.generate(variables):
            pieces.append(piece)
            length += len(piece)
            if length > limits.max_chars or time.monotonic() > deadline:
                raise over_limits(limits)
    except _TemplateRaised as error:
        raise ApiError(CHAT_TEMPLATE_ERROR, echo(str(error)), "messages") from None
    except ApiError:
        raise
    except SecurityError:
        raise ApiError(
            CHAT_TEMPLATE_ERROR,
            "the chat template cannot render: it asks for what the sandbox forbids",
            "messages",
        ) from None
    except (jinja2.TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError, AttributeError):
        raise ApiError(
            CHAT_TEMPLATE_ERROR,
            "the model's chat template cannot render these messages: a field it needs is missing, or of a type it"
            " does not expect",
            "messages",
        ) from None
    return "".join(pieces)


def over_limits(limits: RenderLimits) -> ApiError:
    return ApiError(
        CHAT_TEMPLATE_ERROR,
        f"the model's chat template makes more than {limits.max_chars} characters (--max-rendered-size) of these"
        f" messages, or takes longer than {limits.seconds:g} s (--helper-timeout)",
        "messages",
    )
