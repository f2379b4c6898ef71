"""The endpoints that operators and probes ask: health, readiness, version, metrics, models.

None of them runs the model or waits for anything. What they tell is read off known_services.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from quire import __version__
from quire.shared.errors import MODEL_NOT_FOUND, SERVICE_UNAVAILABLE, ApiError, echo
from quire.shared.messages import ModelCard
from quire.shared.metrics import exposition, merge, sample_name

from .answers import encode
from .exchange import Exchange

if TYPE_CHECKING:
    from .app import Application

METRICS_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


async def live(app: Application, exchange: Exchange) -> None:
    """200 while this process turns its loop."""
    await exchange.respond(200, b"{}")


async def ready(app: Application, exchange: Exchange) -> None:
    """200 when a request would be taken; else 503 with what is awaited, for those who may know."""
    if app.is_ready:
        await exchange.respond(200, b'{"status":"ready"}')
        return
    is_told = app.keys.knows(exchange.header(b"authorization"))
    awaited = None if app.admission.is_draining or not is_told else app.client.known.awaited
    waiting_for = app.waiting_for if is_told else "what only callers with a key are told"
    body: dict[str, Any] = {
        "status": "draining" if app.admission.is_draining else "starting",
        "waiting_for": waiting_for,
        "progress": round(awaited.progress, 3) if awaited is not None else 0.0,
        "error": {
            "message": f"The server is not ready: {waiting_for}.",
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


async def metrics(app: Application, exchange: Exchange) -> None:
    """The samples of all services, merged, in Prometheus' text format."""
    if not app.client.known.ledger.is_complete:
        message = "What was counted before this frontend was started is not known yet; please try again."
        raise ApiError(SERVICE_UNAVAILABLE, message, retry_after_seconds=1)
    app.report()
    card = app.client.card
    labels = () if card is None else (("model_name", card.names[0]),)
    await exchange.respond(200, exposition(_samples(app), labels), METRICS_TYPE)


def _samples(app: Application) -> dict[str, float]:
    own_name = app.service.name
    others = [report for report in app.client.known.reports if report.name != own_name]
    merged = merge([app.samples(), *(report.samples for report in others)])
    # Of what only grows all frontends tell the same: what services have reported, this one just now.
    merged |= app.client.known.ledger.samples()
    ages = app.client.known.ages()
    for report in [*others, app.service.last_report]:
        labels = (("name", report.name),)
        merged[sample_name("quire_process_up", labels)] = 1.0
        merged[sample_name("quire_process_ready", labels)] = float(report.state == "ready")
        merged[sample_name("quire_heartbeat_age_seconds", labels)] = ages.get(report.name, 0.0)
    # The launcher's count, which it tells every frontend: not for merging.
    restarts = {report.name: 0 for report in [*others, app.service.last_report]} | dict(app.health.restarts)
    for name, count in restarts.items():
        merged[sample_name("quire_process_restarts_total", (("name", name),))] = float(count)
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
