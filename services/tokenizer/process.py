"""The tokenizer's process: flags, the event loop, loading, the clock, and the way it ends.

Wires service.py to signals; knows no request.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Sequence

import uvloop

from quire.shared.config import TokenizerConfig
from quire.shared.model_files import ModelFilesError
from quire.shared.neighbours import POLL_SECONDS
from quire.shared.service import Service, bootstrap

from .model import load_model
from .service import TokenizerService
from .tokenizer_files import TokenizerFilesError

logger = logging.getLogger("quire.tokenizer")

_SWITCH_SECONDS = 0.0005
"""How long an encoding thread may keep the interpreter from the event loop."""


async def run(service: Service[TokenizerConfig]) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the wait for running requests."""
    loop = asyncio.get_running_loop()
    tokenizer = TokenizerService(service, loop)
    stopping = asyncio.Event()
    hurry = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, lambda: hurry.set() if stopping.is_set() else stopping.set())
    polling = loop.create_task(_poll(tokenizer))
    try:
        loading = loop.run_in_executor(None, load_model, service.config)
        stop_waiter = loop.create_task(stopping.wait())
        await asyncio.wait((loading, stop_waiter), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            tokenizer.load(loading.result())
            gc.collect()
            gc.freeze()
        await stop_waiter
        await tokenizer.drain(service.config.shutdown_timeout, hurry)
    finally:
        polling.cancel()
        tokenizer.close()


async def _poll(tokenizer: TokenizerService) -> None:
    while True:
        try:
            tokenizer.poll()
        except Exception:
            logger.exception("the neighbours could not be polled")
        await asyncio.sleep(POLL_SECONDS)


def main(argv: Sequence[str] | None = None) -> None:
    service = bootstrap("tokenizer", TokenizerConfig, argv)
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        uvloop.run(run(service))
    except (ModelFilesError, TokenizerFilesError) as error:
        sys.exit(f"quire: {error}")
    finally:
        service.close()
