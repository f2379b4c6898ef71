"""GET /status: everything known of every process, what is held and waits, the limits in force, the last errors.

For operators; needs a key where there are keys. Read off reports, the door and the listener; asks nobody.
"""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any

from quire import __version__
from quire.shared.config import FrontendConfig
from quire.shared.flags import fields
from quire.shared.messages import Report

from .answers import encode
from .exchange import Exchange
from .known_services import as_json, kind_of
from .operations import model_json

if TYPE_CHECKING:
    from .app import Application

_BLOCKS = re.compile(r'quire_kv_blocks\{state="(\w+)"\}')


async def status(app: Application, exchange: Exchange) -> None:
    card = app.client.card
    ages = app.client.known.ages()
    own = app.service.last_report
    reports = [report for report in app.client.known.reports if report.name != own.name]
    body = {
        "version": __version__,
        "state": own.state,
        "waiting_for": "" if app.is_ready else app.waiting_for,
        "uptime_seconds": round(time.monotonic() - app.started, 3),
        "model": None if card is None else model_json(card, card.names[0]),
        "limits": _limits(app),
        "in_flight": app.admission.num_in_flight,
        "door": {
            "choices": app.admission.num_in_flight,
            "waiting_tokens": app.admission.num_waiting_tokens,
            "body_bytes": app.admission.size_bytes,
            "keys": app.admission.num_keys,
            "retry_seconds": app.admission.retry_seconds(),
        },
        "connections": {
            "open": app.listener.num_connections,
            "unsent_bytes": app.watchdog.num_unsent_bytes,
            "file_descriptors": len(os.listdir("/proc/self/fd")),
        },
        "engines": [_engine(report) for report in reports if kind_of(report) == "engine"],
        "launcher_pid": app.config.parent_pid,
        "services": [*(as_json(report, ages.get(report.name, 0.0)) for report in reports), as_json(own, 0.0)],
        "outages": dict(app.health.outages),
        "last_errors": app.errors.as_json(),
    }
    await exchange.respond(200, encode(body))


def _limits(app: Application) -> dict[str, Any]:
    """Flags of the groups that bound something, by name, and what bounds follow from the model."""
    card, admission = app.client.card, app.admission
    shown: dict[str, Any] = {
        name: getattr(app.config, name)
        for name, field in fields(FrontendConfig).items()
        if field.flag.group in ("limits", "faults")
    }
    shown["max_in_flight"] = None if card is None else admission.limit(card)
    shown["max_waiting_tokens"] = None if card is None else admission.token_limit(card)
    shown["keep_alive_interval"] = app.config.keep_alive_interval
    shown["shutdown_timeout"] = app.config.shutdown_timeout
    shown["file_descriptors"] = app.listener.descriptor_limit
    if card is not None:
        shown |= card.limits
        shown |= {name: getattr(card, name) for name in ("max_model_len", "max_num_seqs", "num_kv_tokens")}
    return shown


def _engine(report: Report) -> dict[str, Any]:
    """Its queue, its blocks and its last step."""
    samples = report.samples
    return {
        "name": report.name,
        "running": samples.get("vllm:num_requests_running", 0.0),
        "waiting": samples.get("vllm:num_requests_waiting", 0.0),
        "preemptions": samples.get("vllm:num_preemptions_total", 0.0),
        "steps": report.steps,
        "last_step_age_seconds": samples.get("quire_engine_last_step_age_seconds", 0.0),
        "blocks": {found[1]: value for name, value in samples.items() if (found := _BLOCKS.fullmatch(name))},
    }
