"""The flags that `quire chat` and `quire complete` have in common: which server, which model, how it samples."""

from __future__ import annotations

import argparse
import os
from typing import Any

from .api_client import DEFAULT_URL, ApiClient

_SAMPLING = ("temperature", "top_p", "top_k", "seed", "max_tokens")


def add_server_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--url", help=f"server (default: {DEFAULT_URL})")
    parser.add_argument("--api-key", default=os.environ.get("QUIRE_API_KEY"), help="key of the server")


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="served model (default: the first one)")
    parser.add_argument("--temperature", type=float, help="0 is greedy (default: the server's)")
    parser.add_argument(
        "--top-p", type=float, help="share of the likeliest tokens to draw from (default: the server's)"
    )
    parser.add_argument("--top-k", type=int, help="number of the likeliest tokens to draw from (default: the server's)")
    parser.add_argument("--seed", type=int, help="same seed, same answer (default: drawn)")
    parser.add_argument("--max-tokens", type=int, help="longest answer")


def settings(given: argparse.Namespace, client: ApiClient) -> dict[str, Any]:
    """The fields of a request that the flags give. Raises ApiError."""
    sampling = {name: getattr(given, name) for name in _SAMPLING}
    return {
        "model": given.model or client.first_model(),
        **{name: value for name, value in sampling.items() if value is not None},
    }
