"""The worker's process: says how it is, loads the model, is configured by the engine, carries out its plans.

Below the engine; rank 0 of its group answers. Torch is imported by the thread that loads, after the
socket is there, so that whoever waits is told so. Knows no requests and no text.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from quire.shared.config import WorkerConfig
from quire.shared.link import Server, wait
from quire.shared.messages import Configure, Hello, Masks, Plan, ToWorker
from quire.shared.model_errors import ModelFilesError
from quire.shared.neighbours import POLL_SECONDS, Above
from quire.shared.service import Service, bootstrap

from .debugging import Debugging
from .errors import DeviceError, GroupError, PlanError, StepAbandoned
from .inbox import Inbox
from .loading import Loading
from .out_of_memory import OF_A_MODEL, telling
from .plans_under_way import PlansUnderWay
from .start_phases import StartPhases, process_seconds

if TYPE_CHECKING:
    from .model_runner import ModelRunner

logger = logging.getLogger("quire.worker")

REPORT_SECONDS = 1.0
_SENTENCES = (ModelFilesError, DeviceError, PlanError, GroupError)
"""Errors whose text is all there is to say; any other comes with its traceback."""


class Worker:
    """One model, one configuration at a time; plans are answered in order."""

    def __init__(self, service: Service[WorkerConfig]) -> None:
        self._service = service
        self._debugging = Debugging.of(service.config)
        self._steps = 0
        self._is_stopping = False
        self._next_report = self._next_poll = 0.0
        self._received = 0.0
        """Of time.perf_counter, before what is handled now was decoded."""
        self._server: Server[Any] = service.listen(ToWorker)
        self._above = Above(self._server, service, on_vanish=lambda name: None)
        self._inbox = Inbox(self._server, self._wait_in_step, lambda: self._is_stopping, self._above.hear)
        self._awaited_configure: tuple[str, Configure] | None = None
        self._runner: ModelRunner | None = None
        self._loading: Loading | None = None
        self._plans: PlansUnderWay | None = None

    def stop(self) -> None:
        self._is_stopping = True
        if self._loading is not None and self._loading.watch is not None:
            self._loading.watch.stop()

    def run(self) -> None:
        """Until `stop`. Raises whatever loading, a configuration or a plan raises."""
        self._load()
        while not self._is_stopping:
            self._tick()
            self._received = time.perf_counter()
            received = self._inbox.receive()
            if received is not None:
                self._handle(*received)
            elif not self._answer():
                self._wait()
        if self._runner is not None:
            self._report("draining")
        self._server.close()

    def _wait(self) -> None:
        wait([self._server], POLL_SECONDS, None if self._plans is None else self._plans.descriptor)

    def _wait_in_step(self) -> None:
        """For masks: they depend on the answers to steps before, which may be on their way."""
        self._tick()
        if not self._answer():
            self._wait()

    def _load(self) -> None:
        self._phases = StartPhases(seconds_before=process_seconds())
        loading = self._loading = Loading(self._service, self._phases, self._debugging)
        loading.start()
        while loading.is_alive() and not self._is_stopping:
            self._show(loading)
            self._tick()
            received = self._inbox.receive()
            if received is None:
                wait([self._server], POLL_SECONDS)
            else:
                self._handle(*received)
        if loading.error is not None:
            with telling("while the model was loaded", OF_A_MODEL):
                raise loading.error
        if loading.runner is None:
            return
        self._runner = loading.runner
        self._plans = PlansUnderWay(self._runner)
        self._runner.use_threads()
        logger.info("the model is loaded: %s", self._phases)
        self._report("starting", "waiting for the engine's configuration", progress=1.0)
        if self._awaited_configure is not None:
            self._configure(*self._awaited_configure)

    def _show(self, loading: Loading) -> None:
        last = self._service.last_report
        if (loading.detail, loading.progress) != (last.detail, last.progress):
            self._report("starting", loading.detail, progress=loading.progress)

    def _handle(self, peer: str, message: Hello | Configure | Plan | Masks) -> None:
        match message:
            case Plan():
                self._step(peer, message)
            case Configure():
                if self._runner is None:
                    self._awaited_configure = (peer, message)
                else:
                    self._configure(peer, message)
            case Hello():
                self._above.hear(peer, message)
            case Masks():
                pass  # of a step that was abandoned

    def _tick(self) -> None:
        now = time.monotonic()
        if now < self._next_poll:
            return
        self._next_poll = now + POLL_SECONDS
        self._above.poll()
        if now >= self._next_report:
            last = self._service.last_report
            self._report(last.state, last.detail, last.progress, last.memory_plan)

    def _report(
        self, state: str, detail: str = "", progress: float = 0.0, memory_plan: list[tuple[str, int]] | None = None
    ) -> None:
        self._next_report = time.monotonic() + REPORT_SECONDS
        samples = self._plans.samples() if self._plans is not None else None
        report = self._service.report(state, detail, progress, self._steps, samples, memory_plan)
        self._above.publish(report)

    def fail(self, cause: str) -> None:
        """Tell everybody why before the end."""
        self._report("failed", cause)
        self._server.close()

    def _configure(self, peer: str, wanted: Configure) -> None:
        if self._runner is None:
            raise RuntimeError("configured before the model is loaded")
        self._report("starting", "taking memory and warming up", progress=1.0)
        self._phases.begin("kv cache and warm-up")
        if self._plans is not None:
            self._plans.forget()
        with telling("while the KV cache was taken"):
            ready = self._runner.configure(wanted)
        # What is there now stays: later collections need not walk through it.
        gc.collect()
        gc.freeze()
        self._phases.end()
        self._server.send(peer, ready)
        self._report("ready", str(self._phases), progress=1.0, memory_plan=ready.memory_plan)
        # A later configuration is no part of this start.
        self._phases = StartPhases()
        logger.info(
            "ready on %s (%s, %s kernels): %s",
            ready.device,
            ready.dtype,
            ready.backend,
            ", ".join(f"{what} {size / (1 << 20):,.0f} MiB" for what, size in ready.memory_plan),
        )

    def _step(self, peer: str, plan: Plan) -> None:
        if self._plans is None:
            logger.warning("a plan of %s came before this worker was configured; it is ignored", peer)
            return
        try:
            with telling(f"in a step of {len(plan.slots) // 4} rows"):
                self._plans.submit(peer, plan, self._received, self._inbox.masks)
        except StepAbandoned as reason:
            if self._service.config.tensor_parallel_size > 1 and not self._is_stopping:
                raise GroupError(f"{reason}; another rank may be in the middle of it") from None
            logger.info("%s", reason)
            return
        self._answer()

    def _answer(self) -> bool:
        """Send what the runner is done with; whether there was anything."""
        answers = self._plans.answers() if self._plans is not None else []
        for peer, result in answers:
            self._steps += 1
            if self._runner is not None and self._runner.group.rank == 0:  # the others have the same
                self._server.send(peer, result)
        return bool(answers)


def main(argv: Sequence[str] | None = None) -> None:
    service = bootstrap("worker", WorkerConfig, argv)
    try:
        worker = Worker(service)
    except (OSError, ValueError) as error:
        service.close()
        sys.exit(f"quire: the worker cannot start: {error}")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    code = 0
    try:
        worker.run()
    except Exception as error:
        cause = _one_line(error)
        if not isinstance(error, _SENTENCES):
            logger.exception("the worker ends")
        worker.fail(cause)
        logger.critical("%s", cause)
        code = 1
    finally:
        service.close()
    _end(code)


def _one_line(error: BaseException) -> str:
    if isinstance(error, _SENTENCES):
        return str(error)
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}".rstrip(": ")


def _end(code: int) -> None:
    """At once: a thread that may still be loading must not hold up or upset the interpreter's own end."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    # Nor must the threads of a group's collectives.
    if any(thread.name in ("loading", "peer watch") for thread in threading.enumerate()):
        time.sleep(0.05)
        os._exit(code)
    sys.exit(code)
