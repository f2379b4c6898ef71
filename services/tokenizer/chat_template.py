"""The chat template of a checkpoint: messages in, one text out, by sandboxed Jinja.

First of what happens to a chat request here; the client's own strings are shielded while it runs,
so that none of them becomes a special token. The template is the operator's, the values are not.
Knows no token ids.
"""

from __future__ import annotations

import datetime
import json
import secrets
import time
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import msgspec
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quire.shared.errors import CHAT_TEMPLATE_ERROR, INVALID_VALUE, UNSUPPORTED_PARAMETER, ApiError, echo

from .chat_messages import ContentForm, content_form, last_text, prepare_messages, tag_last_text
from .special_text import Shield, SpecialText
from .tokenizer import Rendered

_MAX_SECONDS = 1.0
_MAX_CHARS = 16 << 20
_RESERVED = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template")
)


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


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class ChatRequest(msgspec.Struct, frozen=True):
    """What is to be rendered; lists and dicts as the client's JSON has them."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    documents: list[Any] | None = None
    template_kwargs: dict[str, Any] = {}
    add_generation_prompt: bool = True
    continue_final_message: bool = False


class ChatTemplate:
    """All templates of a checkpoint, compiled. Raises jinja2.TemplateSyntaxError for one that is not Jinja."""

    def __init__(self, sources: dict[str, str], named_tokens: dict[str, Any], special_text: SpecialText) -> None:
        environment = _environment()
        self._templates: dict[str, tuple[jinja2.Template, ContentForm]] = {
            name: (environment.from_string(source), content_form(environment, source))
            for name, source in sources.items()
        }
        self._named_tokens = named_tokens
        self._special_text = special_text

    def render(self, chat: ChatRequest) -> Rendered:
        """Raises ApiError (400) with a sentence for the client."""
        has_tool_use = bool(chat.tools) and "tool_use" in self._templates
        template, form = self._templates["tool_use" if has_tool_use else "default"]
        _check(chat)
        messages = prepare_messages(chat.messages, form)
        if not messages:
            raise ApiError(INVALID_VALUE, "messages is empty", "messages")
        tag = ""
        if chat.continue_final_message:
            tag = f"{secrets.randbits(128):039d}"
            if not last_text(messages[-1]).strip():
                raise ApiError(
                    INVALID_VALUE, "continue_final_message needs a last message with text to continue", "messages"
                )
            messages[-1] = tag_last_text(messages[-1], tag + " ")
        shield = Shield(self._special_text)
        variables = {
            **self._named_tokens,
            **shield.cover(chat.template_kwargs),
            "messages": shield.cover(messages),
            "tools": shield.cover(chat.tools) if chat.tools else None,
            "documents": shield.cover(chat.documents) if chat.documents else None,
            "add_generation_prompt": chat.add_generation_prompt,
        }
        text = _run(template, variables)
        if tag:
            text = _cut_at(text, tag)
        revealed = shield.reveal(text)
        return Rendered(revealed.text if revealed else text, revealed)


def _check(chat: ChatRequest) -> None:
    for name in chat.template_kwargs:
        if name in _RESERVED:
            raise ApiError(
                UNSUPPORTED_PARAMETER,
                f"chat_template_kwargs may not set {echo(name)}: it is a field of the request",
                "chat_template_kwargs",
            )
    if chat.continue_final_message and chat.add_generation_prompt:
        raise ApiError(
            INVALID_VALUE,
            "continue_final_message and add_generation_prompt exclude each other: one keeps the last message open,"
            " the other opens a new one",
            "continue_final_message",
        )


def _run(template: jinja2.Template, variables: dict[str, Any]) -> str:
    """Render piece by piece, so that a template that goes on for ever is ended."""
    deadline = time.monotonic() + _MAX_SECONDS
    pieces: list[str] = []
    length = 0
    try:
        for piece in template.generate(variables):
            pieces.append(piece)
            length += len(piece)
            if length > _MAX_CHARS or time.monotonic() > deadline:
                raise ApiError(
                    CHAT_TEMPLATE_ERROR,
                    f"the model's chat template makes more than {_MAX_CHARS} characters of these messages,"
                    f" or takes longer than {_MAX_SECONDS:g} s",
                    "messages",
                )
    except _TemplateRaised as error:
        raise ApiError(CHAT_TEMPLATE_ERROR, echo(str(error)), "messages") from None
    except ApiError:
        raise
    except (jinja2.TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError, AttributeError):
        raise ApiError(
            CHAT_TEMPLATE_ERROR,
            "the model's chat template cannot render these messages: a field it needs is missing, or of a type it"
            " does not expect",
            "messages",
        ) from None
    return "".join(pieces)


def _cut_at(text: str, tag: str) -> str:
    """What stands before the tag; a template that trims its messages also lost the space before it."""
    position = text.rfind(tag)
    if position < 0:
        raise ApiError(
            CHAT_TEMPLATE_ERROR,
            "continue_final_message: the model's chat template leaves out the last message's text",
            "continue_final_message",
        )
    has_space = text.startswith(" ", position + len(tag))
    return text[:position] if has_space else text[:position].rstrip()
