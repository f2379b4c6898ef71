"""A worker without a model: answers plans at once or at a set pace, and ends at the first broken one.

Started in place of the real worker (`python -m quire.services.worker.fake`, same flags and messages)
by tests and by bench/chain.py. Its tokens depend on a row's whole history; see fake_rows.py.
Knows no tensors, no text.
"""

from __future__ import annotations

import json
import logging
import mmap
import signal
import struct
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec

import quire.shared
from quire.shared.config import WorkerConfig
from quire.shared.flags import Flag
from quire.shared.link import Server, wait
from quire.shared.messages import Configure, Hello, Masks, Plan, ToWorker, WorkerReady
from quire.shared.neighbours import POLL_SECONDS, Above
from quire.shared.service import Service, bootstrap

from .errors import DeviceError, StepAbandoned
from .fake_rows import FakeRows, Limits, PlanError
from .fake_tokens import Tokens
from .fault_points import FaultError, FaultPoints, parse
from .inbox import Inbox
from .out_of_memory import telling

logger = logging.getLogger("quire.worker")

REPORT_SECONDS = 1.0
KV_BYTES_PER_TOKEN = 1024
"""What a token's KV is said to take when the cache is given in bytes."""
STAMP = struct.Struct("<qq")
"""Step, CLOCK_MONOTONIC nanoseconds just before its result was sent."""
NUM_STAMPS = 1 << 16
"""The stamp of step s stands at index s % NUM_STAMPS."""


class FakeWorkerConfig(WorkerConfig, frozen=True, kw_only=True):
    """The worker without a model, for tests and benchmarks."""

    num_blocks: Annotated[int, Flag("KV blocks, when --kv-cache-memory says nothing", "fake", ge=1)] = 4096
    vocab_size: Annotated[int | None, Flag("absent: the checkpoint's", "fake", ge=2)] = None
    longest: Annotated[int | None, Flag("max_model_len of the model; absent: the checkpoint's", "fake", ge=2)] = None
    eos_id: Annotated[tuple[int, ...], Flag("ids that end a choice; absent: the checkpoint's", "fake")] = ()
    token_id: Annotated[tuple[int, ...], Flag("ids that are drawn; absent: the vocabulary without EOS", "fake")] = ()
    token_by_step: Annotated[bool, Flag("all rows of step s get the s-th of those ids, round and round", "fake")] = (
        False
    )
    step_ms: Annotated[float, Flag("milliseconds that a step takes at least", "fake", ge=0)] = 0.0
    eos_probability: Annotated[float, Flag("of EOS at each token", "fake", ge=0, le=1)] = 0.0
    failure_probability: Annotated[float, Flag("of logits that are not finite", "fake", ge=0, le=1)] = 0.0
    stamps: Annotated[str | None, Flag("file that gets the time of each step's result", "fake", metavar="FILE")] = None


class Checkpoint(msgspec.Struct, frozen=True):
    """What of a checkpoint's configuration matters here."""

    vocab_size: int
    max_model_len: int
    eos_token_ids: tuple[int, ...]


def read_checkpoint(folder: str | None) -> Checkpoint:
    """The checkpoint's numbers, without touching weights. Raises OSError, ValueError or KeyError."""
    path = Path(folder) if folder else Path(quire.shared.__path__[0]) / "demo_model"
    config = json.loads((path / "config.json").read_text())
    generation = path / "generation_config.json"
    eos = json.loads(generation.read_text()).get("eos_token_id") if generation.exists() else None
    eos = config.get("eos_token_id") if eos is None else eos
    ids = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
    return Checkpoint(config["vocab_size"], config["max_position_embeddings"], ids)


class FakeWorker:
    """The service: one configuration at a time, plans answered in order to the engine that configured it."""

    def __init__(self, service: Service[FakeWorkerConfig]) -> None:
        config = self._config = service.config
        given = (config.vocab_size, config.longest, config.eos_id)
        found = None if all(given) else read_checkpoint(config.model)
        self._vocab_size = config.vocab_size or found.vocab_size  # type: ignore[union-attr]
        self._longest = config.longest or found.max_model_len  # type: ignore[union-attr]
        self._eos = config.eos_id or found.eos_token_ids  # type: ignore[union-attr]
        self._service = service
        self._rows: FakeRows | None = None
        self._points = parse(config.fault_points) if config.fault_points else []
        self._faults: FaultPoints | None = None
        self._steps = 0
        self._is_stopping = False
        self._next_report = self._next_poll = 0.0
        self._stamps = _open_stamps(config.stamps) if config.stamps else None
        self._server: Server[Any] = service.listen(ToWorker)
        self._above = Above(self._server, service, on_vanish=lambda name: None)
        self._inbox = Inbox(self._server, self._wait_in_step, lambda: self._is_stopping, self._above.hear)
        self._report("starting", "waiting for the engine's configuration")

    def stop(self) -> None:
        self._is_stopping = True

    def run(self) -> None:
        """Until `stop`. Raises PlanError."""
        while not self._is_stopping:
            self._tick()
            received = self._inbox.receive()
            if received is None:
                wait([self._server], POLL_SECONDS)
                continue
            peer, message = received
            match message:
                case Plan():
                    self._step(peer, message)
                case Configure():
                    self._configure(peer, message)
                case Hello():
                    self._above.hear(peer, message)
                case Masks():
                    pass  # of a step that was abandoned
        self._report("draining")
        self._server.close()

    def _tick(self) -> None:
        now = time.monotonic()
        if now < self._next_poll:
            return
        self._next_poll = now + POLL_SECONDS
        self._above.poll()
        if now >= self._next_report:
            self._report(self._service.last_report.state, self._service.last_report.detail)

    def _report(self, state: str, detail: str = "") -> None:
        self._next_report = time.monotonic() + REPORT_SECONDS
        self._above.publish(self._service.report(state, detail, steps=self._steps))

    def fail(self, detail: str) -> None:
        """Say why before the end."""
        self._report("failed", detail)
        self._server.close()

    def _configure(self, peer: str, wanted: Configure) -> None:
        config, block_size = self._config, wanted.block_size
        num_blocks = config.num_blocks
        if wanted.kv_cache_memory_bytes is not None:
            num_blocks = max(1, wanted.kv_cache_memory_bytes // (KV_BYTES_PER_TOKEN * block_size))
        longest = wanted.max_model_len or min(self._longest, num_blocks * block_size)
        pool = config.token_id or tuple(id for id in range(self._vocab_size) if id not in self._eos)
        self._rows = FakeRows(
            Limits(wanted.max_num_seqs, wanted.max_num_batched_tokens, longest, block_size, num_blocks),
            Tokens(pool, self._eos, config.eos_probability, config.failure_probability, config.token_by_step),
        )
        self._faults = FaultPoints(self._points, block_size) if self._points else None
        plan = [("kv cache", num_blocks * block_size * KV_BYTES_PER_TOKEN)]
        ready = WorkerReady(num_blocks, longest, self._vocab_size, list(self._eos), "none", "none", "fake", plan)
        self._server.send(peer, ready)
        self._report("ready")

    def _step(self, peer: str, plan: Plan) -> None:
        start = time.monotonic()
        if self._rows is None:
            raise PlanError("a plan came before any configuration")
        with telling("in a step"):
            spoilt = self._faults.before(plan) if self._faults else []
        if plan.awaits_masks:
            self._sleep_until(start + self._config.step_ms / 1000)  # they are waited for when the logits are there
        try:
            result = self._rows.apply(plan, self._inbox.masks(plan.step) if plan.awaits_masks else None)
        except StepAbandoned as reason:
            logger.info("%s", reason)
            return
        if spoilt:
            failed = {*result.failed_rows, *(row.index for row in spoilt)}
            result = msgspec.structs.replace(result, failed_rows=sorted(failed))
        self._sleep_until(start + self._config.step_ms / 1000)
        now = time.monotonic()
        self._steps += 1
        if self._stamps is not None:
            STAMP.pack_into(self._stamps, STAMP.size * (plan.step % NUM_STAMPS), plan.step, int(now * 1e9))
        self._server.send(peer, msgspec.structs.replace(result, seconds=now - start))

    def _wait_in_step(self) -> None:
        self._tick()
        wait([self._server], POLL_SECONDS)

    def _sleep_until(self, when: float) -> None:
        """Monotonic seconds."""
        remaining = when - time.monotonic()
        if self._config.step_ms and remaining > 0:
            time.sleep(remaining)


def _open_stamps(path: str) -> mmap.mmap:
    size = STAMP.size * NUM_STAMPS
    with open(path, "w+b") as file:
        file.truncate(size)
        return mmap.mmap(file.fileno(), size)


def main(argv: Sequence[str] | None = None) -> None:
    service = bootstrap("worker", FakeWorkerConfig, argv)
    try:
        worker = FakeWorker(service)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"quire: the fake worker cannot start: {error}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    try:
        worker.run()
    except PlanError as error:
        logger.critical("the plan is broken: %s", error)
        worker.fail(str(error))
        sys.exit(f"quire: the plan is broken: {error}")
    except (FaultError, DeviceError) as error:
        worker.fail(str(error))
        sys.exit(f"quire: {error}")
    finally:
        service.close()


if __name__ == "__main__":
    main()
