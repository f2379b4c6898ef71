"""A running server against schemathesis: requests made of its OpenAPI document, valid and not, and checked by it.

`probe(url, cases)` sends them; what must hold: no 5xx, statuses, headers and bodies as the document says, and
what breaks the document is refused. Generation is kept short by max_tokens where a case does not set it.
"""

from __future__ import annotations

import collections
import math
from typing import Any

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS
from schemathesis.generation.modes import GenerationMode

CHECK_NAMES = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)
_MOSTLY = {"post": 20}
"""How many more cases a method gets: bodies are where the fields are."""
_MOST_TOKENS = 8


def probe(url: str, cases: int, seed_number: int = 0) -> dict[str, collections.Counter[int]]:
    """Send `cases` requests; statuses by operation. Raises AssertionError with the first case that fails a check."""
    document = httpx.get(f"{url}/openapi.json", timeout=30).json()
    schema = schemathesis.openapi.from_dict(document)
    checks = [CHECKS.get_one(name) for name in CHECK_NAMES]
    operations = [result.ok() for result in schema.get_all_operations()]
    weights = [_MOSTLY.get(operation.method.lower(), 1) for operation in operations]
    statuses: dict[str, collections.Counter[int]] = {}
    for operation, weight in zip(operations, weights, strict=True):
        number = math.ceil(cases * weight / sum(weights))
        counter = statuses[f"{operation.method.upper()} {operation.path}"] = collections.Counter()
        modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE] if operation.body else [GenerationMode.POSITIVE]
        for mode in modes:
            _probe_operation(url, operation, mode, checks, max(1, number // len(modes)), seed_number, counter)
    return statuses


def _probe_operation(
    url: str, operation: Any, mode: GenerationMode, checks: list[Any], number: int, seed_number: int, counter: Any
) -> None:
    base_url = url.rstrip("/")

    @seed(seed_number)
    @settings(
        max_examples=number,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        derandomize=False,
    )
    @given(case=operation.as_strategy(generation_mode=mode), data=st.data())
    def send(case: Any, data: st.DataObject) -> None:
        if isinstance(case.body, dict):
            body = case.body
            if mode is GenerationMode.POSITIVE:
                body = _fewer_fields(body, data)
            case.body = _short(body)
        response = case.call(base_url=base_url, timeout=60)
        counter[response.status_code] += 1
        is_stream = response.headers.get("content-type", [""])[0].startswith("text/event-stream")
        kept = [check for check in checks if not (is_stream and check.__name__ == "response_schema_conformance")]
        case.validate_response(response, checks=kept)

    send()


def _fewer_fields(body: dict[str, Any], data: st.DataObject) -> dict[str, Any]:
    """What is needed, and a few more fields: of all at once, some two always exclude each other."""
    optional = sorted(set(body) - {"messages", "prompt"})
    kept = data.draw(st.sets(st.sampled_from(optional), max_size=3)) if optional else set()
    body = {name: value for name, value in body.items() if name not in optional or name in kept}
    return {**body, "stream": True} if data.draw(st.booleans()) else body


def _short(body: dict[str, Any]) -> dict[str, Any]:
    """The body, asking for few tokens: what is tried is the reading of requests, not the model's patience."""
    limits = {
        name: _MOST_TOKENS
        for name in ("max_tokens", "max_completion_tokens")
        if isinstance(body.get(name), int) and body[name] > _MOST_TOKENS
    }
    if not any(isinstance(body.get(name), int) for name in ("max_tokens", "max_completion_tokens")):
        limits["max_tokens"] = _MOST_TOKENS
    return {**body, **limits}
