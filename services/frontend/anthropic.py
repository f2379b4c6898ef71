"""Anthropic's API: POST /v1/messages, and how its clients are told apart, let in and refused.

The way of a request is generation.py's; what differs is in anthropic_protocol.py and
anthropic_answer.py. Knows headers and paths, nothing of messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from quire.shared.request_ids import message_id

from .anthropic_answer import AnthropicAnswer, anthropic_error
from .anthropic_protocol import parse_messages
from .exchange import Exchange
from .generation import Endpoint, generate, read_by

if TYPE_CHECKING:
    from .app import Application

_ENDPOINT = Endpoint("chat", read_by(parse_messages), message_id, AnthropicAnswer)


async def messages(app: Application, exchange: Exchange) -> None:
    await generate(app, exchange, _ENDPOINT)


def is_anthropic(path: str) -> bool:
    return path == "/v1/messages" or path.startswith("/v1/messages/")


def speak_anthropic(exchange: Exchange) -> None:
    """Answer with the errors and the id that Anthropic's clients look for, also before any handler runs."""
    exchange.write_error = anthropic_error
    exchange.common_headers.append((b"request-id", exchange.request_id))


def authorization_of(exchange: Exchange) -> bytes | None:
    """The caller's Authorization; on Anthropic's paths also its x-api-key, as the same key."""
    given = exchange.header(b"authorization")
    if given is None and is_anthropic(exchange.scope["path"]):
        key = exchange.header(b"x-api-key")
        return None if key is None else b"Bearer " + key
    return given
