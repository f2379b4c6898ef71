"""The chat template of a checkpoint: messages in, one text out, by sandboxed Jinja.

First of what happens to a chat request here; the client's own strings are shielded while it runs,
so that none of them becomes a special token. The template is the operator's, the values are not.
Knows no token ids.
"""

from __future__ import annotations

import secrets
from typing import Any

import jinja2
import jinja2.meta
import msgspec

from quire.shared.errors import (
    CHAT_TEMPLATE_ERROR,
    INVALID_VALUE,
    SERVICE_UNAVAILABLE,
    UNSUPPORTED_PARAMETER,
    ApiError,
    echo,
)
from quire.shared.messages import ChatPrompt, Outcome, Program

from .chat_messages import CONTENT_FORMS, ContentForm, content_form, last_text, prepare_messages, tag_last_text
from .special_text import Shield, SpecialText
from .template_rendering import make_environment, run
from .tokenizer import Rendered
from .untrusted import Untrusted

_RESERVED = frozenset(
    ("messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "chat_template")
)


_WISHES = frozenset(("enable_thinking", "thinking", "reasoning_effort"))
"""What clients send to any model: one that does not think has nothing to switch."""
_SWITCHES_BYTES = 1024
_SWITCH_CHARS = 64


def needs_helper(prompt: ChatPrompt) -> bool:
    """Whether a request varies what its template does by more than switches: that runs in the helper process.

    Switches are true, false, null and short strings. A number is none: a template may count to it.
    """
    if prompt.chat_template or len(prompt.template_kwargs_json) > _SWITCHES_BYTES:
        return True
    if not prompt.template_kwargs_json:
        return False
    try:
        values = msgspec.json.decode(prompt.template_kwargs_json, type=dict[str, Any]).values()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return True
    return not all(
        value is None or isinstance(value, bool) or (isinstance(value, str) and len(value) <= _SWITCH_CHARS)
        for value in values
    )


class ChatRequest(msgspec.Struct, frozen=True):
    """What is to be rendered; lists and dicts as the client's JSON has them."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None = None
    documents: list[Any] | None = None
    template_kwargs: dict[str, Any] = {}
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str = ""
    """The client's own; empty: the checkpoint's."""
    is_untrusted: bool = False
    """To be rendered in the helper process."""


class ChatTemplate:
    """All templates of a checkpoint, compiled. Raises jinja2.TemplateSyntaxError for one that is not Jinja."""

    def __init__(
        self,
        sources: dict[str, str],
        named_tokens: dict[str, Any],
        special_text: SpecialText,
        untrusted: Untrusted | None = None,
    ) -> None:
        self._untrusted = untrusted or Untrusted()
        environment = make_environment(self._untrusted.render_limits)
        self._sources = sources
        self._templates: dict[str, tuple[jinja2.Template, ContentForm]] = {
            name: (environment.from_string(source), content_form(environment, source))
            for name, source in sources.items()
        }
        self._variables = {
            name: frozenset(jinja2.meta.find_undeclared_variables(environment.parse(source)))
            for name, source in sources.items()
        }
        """What each template reads."""
        self._named_tokens = named_tokens
        self._special_text = special_text

    @property
    def is_there(self) -> bool:
        """Whether the checkpoint has one."""
        return bool(self._templates)

    def start_helper(self) -> None:
        """Before a request needs it; see Untrusted.start."""
        self._untrusted.start()

    def close(self) -> None:
        self._untrusted.close()

    def render(self, chat: ChatRequest) -> Rendered:
        """Raises ApiError (400) with a sentence for the client."""
        has_tool_use = bool(chat.tools) and "tool_use" in self._templates
        name = "tool_use" if has_tool_use else "default"
        _check(chat)
        if not chat.chat_template:
            _check_is_read(chat, self._variables[name])
        form = self._content_form(chat.chat_template) if chat.chat_template else self._templates[name][1]
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
        if chat.is_untrusted:
            text = self._render_untrusted(chat, chat.chat_template or self._sources[name], variables)
        else:
            text = run(self._templates[name][0], variables, self._untrusted.render_limits)
        if tag:
            text = _cut_at(text, tag)
        revealed = shield.reveal(text)
        return Rendered(revealed.text if revealed else text, revealed)

    def _content_form(self, source: str) -> ContentForm:
        """Of a client's template, which is not so much as parsed here."""
        outcome = self._untrusted.run(Program("content_form", source))
        if outcome.result != "ok":
            raise _refusal(outcome, "chat_template")
        return next(form for form in CONTENT_FORMS if form == outcome.text)

    def _render_untrusted(self, chat: ChatRequest, source: str, variables: dict[str, Any]) -> str:
        outcome = self._untrusted.run(Program("template", source, msgspec.json.encode(variables)))
        if outcome.result == "ok":
            return outcome.text
        field = "chat_template" if chat.chat_template else "chat_template_kwargs"
        raise _refusal(outcome, field)


def _refusal(outcome: Outcome, field: str) -> ApiError:
    if outcome.result == "unavailable":
        return ApiError(SERVICE_UNAVAILABLE, outcome.text, field, retry_after_seconds=1.0)
    if outcome.result == "error":
        return ApiError(CHAT_TEMPLATE_ERROR, outcome.text, field)
    return ApiError(
        CHAT_TEMPLATE_ERROR, f"the chat template cannot be rendered with this {field}: {outcome.text}", field
    )


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


def _check_is_read(chat: ChatRequest, variables: frozenset[str]) -> None:
    """Refuse what the checkpoint's template would leave out of the prompt without a word."""
    if chat.documents and "documents" not in variables:
        message = "documents: this model's chat template takes none; please put them into a message"
        raise ApiError(UNSUPPORTED_PARAMETER, message, "documents")
    for name in chat.template_kwargs:
        if name not in variables and name not in _WISHES:
            message = f"chat_template_kwargs has {echo(name)}, which this model's chat template does not read"
            raise ApiError(UNSUPPORTED_PARAMETER, message, "chat_template_kwargs")


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
