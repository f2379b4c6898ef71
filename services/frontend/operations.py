"""The endpoints that operators and probes ask: health, readiness, version, status, metrics, models.

None of them runs the model or waits for anything. What they tell is read off known_services.py.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from quire import __version__
from quire.shared.errors import MODEL_NOT_FOUND, SERVICE_UNAVAILABLE, ApiError, echo
from quire.shared.messages import ModelCard
from quire.shared.metrics import exposition, merge, sample_name

from .answers import encode
from .exchange import Exchange
from .known_services import as_json

if TYPE_CHECKING:
    from .app import Application

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


async def live(app: Application, exchange: Exchange) -> None:
    """200 while this process turns its loop."""
    await exchange.respond(200, b"{}")


async def ready(app: Application, exchange: Exchange) -> None:
    """200 when a request would be taken; else 503 with what is awaited."""
    if app.is_ready:
        await exchange.respond(200, b'{"status":"ready"}')
        return
    awaited = None if app.admission.is_draining else app.client.known.awaited
    body: dict[str, Any] = {
        "status": "draining" if app.admission.is_draining else "starting",
        "waiting_for": app.waiting_for,
        "progress": round(awaited.progress, 3) if awaited is not None else 0.0,
        "error": {
            "message": f"The server is not ready: {app.waiting_for}.",
            "type": SERVICE_UNAVAILABLE.type,
            "param": None,
            "code": SERVICE_UNAVAILABLE.code,
        },
    }
    if awaited is not None:
        body["service"] = {"name": awaited.name, "state": awaited.state, "detail": awaited.detail}
    headers = [(b"retry-after", b"1")]
    if app.admission.is_draining:
        headers.append((b"connection", b"close"))
    await exchange.respond(503, encode(body), headers=headers)


async def show_version(app: Application, exchange: Exchange) -> None:
    await exchange.respond(200, encode({"version": __version__}))


async def status(app: Application, exchange: Exchange) -> None:
    """Everything known of every process, and the limits in force."""
    card = app.client.card
    ages = app.client.known.ages()
    services = [as_json(report, ages.get(report.name, 0.0)) for report in app.client.known.reports]
    own = as_json(app.service.last_report, 0.0)
    others = [service for service in services if service["name"] != own["name"]]
    body = {
        "version": __version__,
        "state": own["state"],
        "waiting_for": "" if app.is_ready else app.waiting_for,
        "uptime_seconds": round(time.monotonic() - app.started, 3),
        "model": None if card is None else model_json(card, card.names[0]),
        "limits": {
            "in_flight": None if card is None else app.admission.limit(card),
            "waiting_tokens": None if card is None else app.admission.token_limit(card),
            "in_flight_bytes": app.config.max_in_flight_size,
            "body_bytes": app.config.max_body_size,
            "stall_seconds": app.config.stall_timeout,
            "shutdown_seconds": app.config.shutdown_timeout,
        },
        "in_flight": app.admission.num_in_flight,
        "services": [*others, own],
    }
    await exchange.respond(200, encode(body))


async def metrics(app: Application, exchange: Exchange) -> None:
    """The samples of all services, merged, in Prometheus' text format."""
    card = app.client.card
    labels = () if card is None else (("model_name", card.names[0]),)
    await exchange.respond(200, exposition(_samples(app), labels), METRICS_TYPE)


def _samples(app: Application) -> dict[str, float]:
    own_name = app.service.name
    others = [report for report in app.client.known.reports if report.name != own_name]
    merged = merge([app.samples(), *(report.samples for report in others)])
    ages = app.client.known.ages()
    for report in [*others, app.service.last_report]:
        labels = (("name", report.name),)
        merged[sample_name("quire_process_up", labels)] = 1.0
        merged[sample_name("quire_process_ready", labels)] = float(report.state == "ready")
        merged[sample_name("quire_heartbeat_age_seconds", labels)] = ages.get(report.name, 0.0)
    merged[sample_name("quire_build_info", (("version", __version__),))] = 1.0
    return merged


def model_json(card: ModelCard, name: str) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": card.created,
        "owned_by": "quire",
        "root": card.root,
        "parent": None,
        "max_model_len": card.max_model_len,
    }


async def models(app: Application, exchange: Exchange) -> None:
    card = app.require_card()
    data = [model_json(card, name) for name in card.names]
    await exchange.respond(200, encode({"object": "list", "data": data}))


async def model(app: Application, exchange: Exchange) -> None:
    card = app.require_card()
    name = exchange.scope["path_params"]["id"]
    if name not in card.names:
        message = f"The model {echo(name)!r} does not exist; this server has: {', '.join(card.names)}."
        raise ApiError(MODEL_NOT_FOUND, message, "model")
    await exchange.respond(200, encode(model_json(card, name)))
