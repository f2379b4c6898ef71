"""The chat page at /: one static file, with a content security policy that lets nothing but itself run.

The page holds no secret and is served without a key; what it asks of the API needs one as ever.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from quire.shared.errors import NOT_FOUND, ApiError

from .exchange import Exchange, Headers

if TYPE_CHECKING:
    from .app import Application

_FILE = Path(__file__).with_name("playground.html")


async def playground(app: Application, exchange: Exchange) -> None:
    """Raises ApiError (404) with --no-ui."""
    if not app.config.ui:
        raise ApiError(NOT_FOUND, "There is nothing at /: the chat page is off (--no-ui).")
    page, headers = _page()
    await exchange.respond(200, page, b"text/html; charset=utf-8", headers)


@functools.cache
def _page() -> tuple[bytes, Headers]:
    page = _FILE.read_bytes()
    policy = (
        f"default-src 'none'; script-src {_hashes(page, b'script')}; style-src {_hashes(page, b'style')};"
        " connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, [
        (b"content-security-policy", policy.encode()),
        (b"cache-control", b"no-cache"),
        (b"referrer-policy", b"no-referrer"),
        (b"x-content-type-options", b"nosniff"),
    ]


def _hashes(page: bytes, tag: bytes) -> str:
    """What the policy names the page's own elements by."""
    contents = re.findall(rb"<%b>(.*?)</%b>" % (tag, tag), page, re.DOTALL)
    return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(content).digest()).decode()}'" for content in contents)
