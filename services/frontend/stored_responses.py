"""What is done with stored responses: shown, listed, gone on from, deleted, cancelled; wherever they are stored.

`look_up` does it in this frontend's own store, for callers of its own and of its siblings alike. Knows items
and messages, no request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from quire.shared.errors import INVALID_REQUEST, INVALID_VALUE, RESPONSE_NOT_FOUND, ApiError, echo

from .answers import encode
from .exchange import Exchange
from .query import Query
from .response_store import ResponseStore, StoredResponse
from .responses_answer import item_id, messages_of_output

if TYPE_CHECKING:
    from .app import Application

_MAX_LISTED = 100
_LISTED = 20


def look_up(store: ResponseStore, operation: str, response_id: str, key_name: str) -> bytes | None:
    """What an operation gives of a response, as JSON; None: it is not here, or another key's. Raises ApiError."""
    stored = store.get(response_id, key_name)
    if stored is None:
        return None
    if operation == "answer":
        return stored.answer
    if operation == "input":
        return encode(_input_of(stored, response_id))
    if operation == "items":
        return encode(_input_of(stored, response_id) + msgspec.json.decode(stored.answer)["output"])
    if operation == "conversation":
        return _conversation(stored, response_id)
    if operation == "delete":
        return _deleted(store, stored, response_id)
    return _cancelled(stored, response_id)


def _input_of(stored: StoredResponse, response_id: str) -> list[dict[str, Any]]:
    items = msgspec.json.decode(stored.input_items)
    return [{"id": item_id("item", response_id, index), **item} for index, item in enumerate(items)]


def _conversation(stored: StoredResponse, response_id: str) -> bytes:
    """All its messages, the answer's among them."""
    if stored.status in ("in_progress", "failed"):
        message = f"The response {echo(response_id)} is {stored.status}."
        raise ApiError(INVALID_VALUE, message, "previous_response_id")
    output = msgspec.json.decode(stored.answer)["output"]
    return encode(msgspec.json.decode(stored.messages) + messages_of_output(output))


def _deleted(store: ResponseStore, stored: StoredResponse, response_id: str) -> bytes:
    if stored.cancel is not None:
        raise ApiError(INVALID_REQUEST, f"The response {echo(response_id)} is under way: cancel it first.")
    store.delete(response_id)
    return encode({"id": response_id, "object": "response", "deleted": True})


def _cancelled(stored: StoredResponse, response_id: str) -> bytes:
    """End one that is under way; its own client gets what there is of it."""
    if stored.cancel is None and stored.status != "cancelled":
        raise ApiError(INVALID_REQUEST, f"The response {echo(response_id)} is {stored.status} already.")
    if stored.cancel is not None:
        stored.cancel()
        stored.cancel, stored.status = None, "cancelled"
        stored.answer = encode({**msgspec.json.decode(stored.answer), "status": "cancelled"})
    return stored.answer


async def find(app: Application, key_name: str, operation: str, response_id: str, param: str | None = None) -> bytes:
    """The same, in whichever frontend it is stored. `param`: the field that names it. Raises ApiError."""
    found = look_up(app.responses, operation, response_id, key_name)
    if found is None:
        found = await app.siblings.ask(operation, response_id, key_name)
    if found is None:
        message = (
            f"The response {echo(response_id)} is not there: it was not stored (store: false), it was deleted or"
            " made room for others (--response-store-size), or the frontend that had it was lost."
        )
        raise ApiError(RESPONSE_NOT_FOUND, message, param)
    return found


async def _respond(app: Application, exchange: Exchange, operation: str) -> None:
    body = await find(app, exchange.key_name, operation, exchange.scope["path_params"]["id"])
    await exchange.respond(200, body)


async def by_id(app: Application, exchange: Exchange) -> None:
    """GET shows one, DELETE forgets it."""
    if Query(exchange).switch("stream"):
        message = "stream is for responses in the background, which this server does not have."
        raise ApiError(INVALID_VALUE, message, "stream")
    await _respond(app, exchange, "delete" if exchange.scope["method"] == "DELETE" else "answer")


async def cancel(app: Application, exchange: Exchange) -> None:
    await _respond(app, exchange, "cancel")


async def list_input(app: Application, exchange: Exchange) -> None:
    query = Query(exchange)
    limit = query.number("limit", 1, _MAX_LISTED, _LISTED)
    is_newest_first = query.choice("order", ("desc", "asc")) == "desc"
    items = msgspec.json.decode(await find(app, exchange.key_name, "input", exchange.scope["path_params"]["id"]))
    if is_newest_first:
        items.reverse()
    after = query.text("after")
    if after is not None:
        places = [place for place, item in enumerate(items) if item["id"] == after]
        if not places:
            raise ApiError(INVALID_VALUE, f"There is no item {echo(after)} in the input.", "after")
        items = items[places[0] + 1 :]
    shown = items[:limit]
    first, last = (shown[0]["id"], shown[-1]["id"]) if shown else (None, None)
    more = {"first_id": first, "last_id": last, "has_more": len(shown) < len(items)}
    await exchange.respond(200, encode({"object": "list", "data": shown, **more}))
