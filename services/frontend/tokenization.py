"""What only asks for tokens and runs nothing: /tokenize, /detokenize, Anthropic's count_tokens.

Goes the way of a generation as far as the tokenizer, which answers by itself: the same templates,
checks and recovery. Knows no engine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import msgspec

from quire.shared.errors import INVALID_VALUE, MISSING_PARAMETER, MODEL_NOT_FOUND, ApiError, echo
from quire.shared.messages import Accepted, Generate, ModelCard, Prompt, SamplingParams, TextParams, TextPrompt

from .answers import encode, ids_of
from .anthropic_protocol import parse_count
from .bounds import MAX_ID, Items, Json, Number, Text, check
from .chat_protocol import EFFORT, Documents, Messages, parse_chat
from .chat_tools import Tools
from .completion_protocol import ids_prompt
from .exchange import Exchange
from .mailbox import ClientGone, Mailbox
from .protocol import ABSENT, decode, json_of
from .submission import check_template

if TYPE_CHECKING:
    from .app import Application

_IDS = Items(0, 1 << 22, Number(0, MAX_ID))


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """The body of POST /tokenize: a prompt, or what a chat would have."""

    model: Annotated[str | None, Text(0, 256)] = None
    prompt: Annotated[str | None, Text(1, 64 << 20)] = None
    messages: Annotated[msgspec.Raw, Json(64 << 20, Messages)] = ABSENT
    tools: Annotated[msgspec.Raw, Json(4 << 20, Tools)] = ABSENT
    chat_template_kwargs: Annotated[dict[str, Any] | None, Items(0, 64, keys=Text(1, 64))] = None
    chat_template: Annotated[str | None, Text(0, 64 << 10)] = None
    documents: Annotated[msgspec.Raw, Json(64 << 20, Documents)] = ABSENT
    reasoning_effort: Annotated[str | None, EFFORT] = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True):
    """The body of POST /detokenize."""

    model: Annotated[str | None, Text(0, 256)] = None
    tokens: Annotated[list[int], _IDS]


_tokenize_decoder = msgspec.json.Decoder(TokenizeRequest)
_detokenize_decoder = msgspec.json.Decoder(DetokenizeRequest)


Wanted: TypeAlias = tuple[str | None, Prompt, TextParams]
"""The model asked for, what is to be tokenized, and what of it is wanted."""


def parse_tokenize(body: bytes) -> Wanted:
    """Raises ApiError."""
    request = decode(body, _tokenize_decoder)
    check(request)
    text = TextParams(only_tokenizes=True, return_token_strings=bool(request.return_token_strs))
    has_messages = bool(json_of(request.messages))
    if has_messages == (request.prompt is not None):
        kind = INVALID_VALUE if has_messages else MISSING_PARAMETER
        raise ApiError(kind, "Either prompt or messages is required, and not both.", "prompt")
    if request.prompt is not None:
        return request.model, TextPrompt(request.prompt, request.add_special_tokens is not False), text
    return request.model, parse_chat(body)[1], text


def parse_detokenize(body: bytes) -> Wanted:
    """Raises ApiError."""
    request = decode(body, _detokenize_decoder)
    check(request)
    return request.model, ids_prompt(request.tokens), TextParams(only_tokenizes=True, return_prompt_text=True)


def _parse_count(body: bytes) -> Wanted:
    return *parse_count(body), TextParams(only_tokenizes=True)


async def tokenize(app: Application, exchange: Exchange) -> None:
    card, accepted = await _ask(app, exchange, parse_tokenize)
    ids = ids_of(accepted.prompt_ids)
    answer = {"count": len(ids), "max_model_len": card.max_model_len, "tokens": ids}
    await exchange.respond(200, encode({**answer, "token_strs": accepted.token_strings or None}))


async def detokenize(app: Application, exchange: Exchange) -> None:
    _, accepted = await _ask(app, exchange, parse_detokenize)
    await exchange.respond(200, encode({"prompt": accepted.prompt_text}))


async def count_tokens(app: Application, exchange: Exchange) -> None:
    _, accepted = await _ask(app, exchange, _parse_count)
    await exchange.respond(200, encode({"input_tokens": accepted.num_prompt_tokens}))


async def _ask(app: Application, exchange: Exchange, parse: Callable[[bytes], Wanted]) -> tuple[ModelCard, Accepted]:
    """Read, check, take a place, and have a tokenizer's answer. Raises ApiError and ClientGone."""
    card = app.look()
    max_size = app.config.max_body_size
    held = app.admission.unread(card, exchange.declared_size(max_size))
    with app.admission.enter(card, exchange.key_name, held):
        model, prompt, text = await app.parser.parse(parse, await exchange.read_json(max_size))
        if model and model not in card.names:
            message = f"The model {echo(model)!r} does not exist; this server has: {', '.join(card.names)}."
            raise ApiError(MODEL_NOT_FOUND, message, "model")
        check_template(app, prompt)
        generate = Generate(app.ids.next(), prompt, 1, SamplingParams(), text, 0, time.time())
        mailbox = Mailbox(1, 1, app.loop)
        records = app.client.submit([generate], mailbox)
        watcher = app.loop.create_task(_watch(exchange, mailbox))
        try:
            (accepted,) = await mailbox.settled()
        finally:
            watcher.cancel()
            app.client.abort(records, "client_gone")
            mailbox.forget()
    return card, accepted


async def _watch(exchange: Exchange, mailbox: Mailbox) -> None:
    await exchange.wait_until_gone()
    mailbox.fail(ClientGone())
