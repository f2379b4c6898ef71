"""What callers of the offline API may give as prompts, made messages: texts, token ids, conversations.

Raises TypeError for what is none of them. What a template makes of a conversation is the tokenizer's business.
"""

from __future__ import annotations

import numbers
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import msgspec

from quire.shared.messages import ChatPrompt, IdsPrompt, Prompt, TextPrompt

TextOrIds = str | Sequence[int]
Messages = Sequence[dict[str, Any]]


class ChatOptions(TypedDict, total=False):
    """What a conversation may have beside its messages."""

    tools: Messages | None
    documents: Messages | None
    chat_template: str | None
    """Instead of the checkpoint's."""
    chat_template_kwargs: Mapping[str, Any] | None
    add_generation_prompt: bool
    """True unless the last message is to be continued."""
    continue_final_message: bool


def texts_or_ids(prompts: TextOrIds | Sequence[TextOrIds]) -> list[Prompt]:
    """One prompt, or several."""
    if isinstance(prompts, (bytes, bytearray, Mapping)) or not hasattr(prompts, "__len__"):
        raise TypeError(f"prompts are texts, or lists of token ids, not {type(prompts).__name__}")
    is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], numbers.Integral))
    listed: Any = [prompts] if is_one else prompts
    return [text_or_ids(prompt) for prompt in listed]


def text_or_ids(prompt: TextOrIds) -> Prompt:
    if isinstance(prompt, str):
        return TextPrompt(prompt)
    if isinstance(prompt, (bytes, bytearray, Mapping)):
        raise TypeError(f"a prompt is a text or a list of token ids, not {type(prompt).__name__}")
    try:
        return IdsPrompt(array("i", prompt).tobytes())
    except (TypeError, OverflowError) as error:
        raise TypeError(f"a prompt is a text or a list of token ids of 32 bits: {error}") from None


def conversations(messages: Messages | Sequence[Messages], options: ChatOptions) -> list[Prompt]:
    """One conversation, or several."""
    if isinstance(messages, (str, Mapping)):
        raise TypeError(f"a conversation is a list of messages, not {type(messages).__name__}")
    listed: Any = [messages] if messages and isinstance(messages[0], Mapping) else messages
    return [conversation(one, options) for one in listed]


def conversation(messages: Messages, options: ChatOptions) -> ChatPrompt:
    unknown = options.keys() - ChatOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"a chat has no option {min(unknown)!r}; there are {', '.join(ChatOptions.__annotations__)}")
    if isinstance(messages, (str, Mapping)) or not all(isinstance(message, Mapping) for message in messages):
        raise TypeError("a conversation is a list of messages, each a dict with role and content")
    is_continued = options.get("continue_final_message", False)
    return ChatPrompt(
        messages_json=msgspec.json.encode(list(messages)),
        tools_json=_json(options.get("tools")),
        template_kwargs_json=_json(options.get("chat_template_kwargs")),
        documents_json=_json(options.get("documents")),
        add_generation_prompt=options.get("add_generation_prompt", not is_continued),
        continue_final_message=is_continued,
        chat_template=options.get("chat_template") or "",
    )


def _json(value: Messages | Mapping[str, Any] | None) -> bytes:
    return msgspec.json.encode(value) if value else b""
