"""The engine process: tokenizers above, workers below, and between them the loop of three verbs.

schedule -> send -> commit, with the next plan sent before the last one's tokens are known.
Blocks in one wait on all links; knows no text and no tensors.
"""

from __future__ import annotations

import gc
import logging
import signal
import time
from collections.abc import Sequence
from types import FrameType

from quire.shared.config import EngineConfig
from quire.shared.link import wait
from quire.shared.messages import (
    Abort,
    Configure,
    Hello,
    Look,
    Report,
    StepResult,
    Submit,
    ToEngine,
    Vocabulary,
    WorkerReady,
)
from quire.shared.neighbours import POLL_SECONDS, Above
from quire.shared.service import Service, bootstrap

from .intake import Intake
from .outbox import Outbox
from .replica import Replica
from .stats import Stats
from .step_builder import build_plan
from .workers import Workers

logger = logging.getLogger("quire.engine")

REPORT_SECONDS = 1.0
IDLE_SECONDS = 1.0
"""Without work, after which the table of tokens for grammars is made ahead."""


class Engine:
    """One model replica's loop. `run` returns when `stop` was called."""

    def __init__(self, service: Service[EngineConfig]) -> None:
        self._service = service
        self._config = config = service.config
        self._server = service.listen(ToEngine)
        self._outbox = Outbox()
        self._stats = Stats()
        max_open_choices = config.max_waiting or max(64, 4 * config.max_num_seqs)
        self._intake = Intake(self._server, self._stats, max_open_choices)
        self._above = Above(self._server, service, self._intake.abort_peer)
        self._replica: Replica | None = None
        self._step_number = 0
        self._last_step_at = time.monotonic()
        self._is_stopping = False
        self._state = "starting"
        self._next_poll = 0.0
        self._next_report = 0.0
        configure = Configure(
            max_num_seqs=config.max_num_seqs,
            max_num_batched_tokens=config.max_num_batched_tokens,
            max_model_len=config.max_model_len,
            block_size=config.block_size,
            kv_cache_memory_bytes=config.kv_cache_memory,
            memory_utilization=config.memory_utilization,
        )
        self._workers = Workers(service, configure, self._on_ready, self._on_result, self._on_lost)

    def stop(self) -> None:
        """Leave the loop at its next turn. For signal handlers."""
        self._is_stopping = True

    def run(self) -> None:
        while not self._is_stopping:
            self._poll()
            self._hear()
            self._intake.take_constrained()
            self._workers.receive()
            if self._is_busy:  # the workers have a plan in hand: clients come first
                self._deliver()
            self._plan_ahead()
            self._deliver()
            wait([self._server, self._intake.waker, *self._workers.links], self._next_poll - time.monotonic())
        self._stop()

    @property
    def _is_busy(self) -> bool:
        return self._replica is not None and bool(self._replica.in_flight)

    # --- the loop's parts -----------------------------------------------------------------------------

    def _plan_ahead(self) -> None:
        """Keep `overlap_depth` plans with the workers."""
        replica = self._replica
        if replica is None:
            return
        while len(replica.in_flight) < self._config.overlap_depth:
            step = replica.scheduler.schedule(time.monotonic())
            if step is None:
                break
            if not replica.in_flight:
                self._last_step_at = time.monotonic()  # the stall clock starts with the work
            if replica.scheduler.suspects:
                self._intake.accept_suspects(step)
            self._step_number += 1
            plan = build_plan(self._step_number, step)
            self._workers.send(plan)
            replica.in_flight.append((plan, step))
            if len(replica.in_flight) == 1:
                self._send_masks(replica)

    def _send_masks(self, replica: Replica) -> None:
        """Of the step that the workers are at: all tokens before it are known."""
        plan, step = replica.in_flight[0]
        if not plan.awaits_masks:
            return
        start = time.monotonic()
        masks, failed = replica.masks.build(plan.step, step)
        self._stats.masks(time.monotonic() - start)
        self._workers.send(masks)
        for choice, message in failed:
            replica.committer.end_unsampled(choice, message)

    def _on_result(self, result: StepResult) -> None:
        replica = self._replica
        if replica is None or not replica.in_flight or replica.in_flight[0][0].step != result.step:
            logger.warning("the result of step %d was not awaited", result.step)
            return
        _, step = replica.in_flight.popleft()
        now = self._last_step_at = time.monotonic()
        replica.committer.commit(step, result, now)
        if replica.in_flight:
            self._send_masks(replica)
        if self._config.check_invariants:
            replica.scheduler.check()

    def _deliver(self) -> None:
        for peer, batch in self._outbox.flush():
            self._server.send(peer, batch)  # a peer that is gone is found by _poll, and its requests aborted

    def _hear(self) -> None:
        while (received := self._server.receive()) is not None:
            peer, message = received
            match message:
                case Submit():
                    self._intake.submit(peer, message)
                case Abort():
                    self._intake.abort(peer, message)
                case Hello():
                    self._above.hear(peer, message)
                case Look():
                    self._next_poll = 0.0
                case Vocabulary():
                    self._intake.grammars.learn(message.tokenizer_json)

    def _poll(self) -> None:
        """Neighbours and reports, when it is time."""
        now = time.monotonic()
        if now < self._next_poll:
            return
        self._next_poll = now + POLL_SECONDS
        self._workers.poll()
        self._above.poll()
        self._intake.refuse_overdue(now)
        if not self._is_busy and now - self._last_step_at > IDLE_SECONDS:
            self._intake.grammars.build_ahead()
        if self._state != "ready" or now >= self._next_report:
            self._next_report = now + REPORT_SECONDS
            self._publish(now)

    # --- workers come and go ----------------------------------------------------------------------------

    def _on_ready(self, facts: WorkerReady) -> None:
        config = self._config
        self._last_step_at = time.monotonic()
        self._replica = self._intake.replica = Replica(facts, config, self._outbox, self._stats)
        self._intake.grammars.configure(facts.vocab_size, facts.eos_token_ids)
        self._stats.worker_ready(facts)
        self._state = "ready"
        logger.info(
            "ready: %d blocks of %d tokens, max_model_len %d, %s %s on %s",
            facts.num_blocks, config.block_size, facts.max_model_len, facts.backend, facts.dtype, facts.device,
        )  # fmt: skip
        gc.collect()
        gc.freeze()
        self._publish(time.monotonic())

    def _on_lost(self, cause: str, reason: str) -> None:
        """The KV cache is gone with a worker: requests go (`lost` or `moved`), a new replica comes with the group."""
        logger.error("%s; all requests of this engine end", cause) if reason == "lost" else logger.info("%s", cause)
        replica, self._replica, self._intake.replica = self._replica, None, None
        self._state = "starting"
        if replica is not None:
            sentence = "a model worker ended" if reason == "lost" else "a model worker is being restarted"
            replica.committer.let_all_go(reason, sentence)
            self._stats.forget(replica.scheduler)
        self._deliver()
        self._publish(time.monotonic())

    # --- reports --------------------------------------------------------------------------------------

    def _publish(self, now: float) -> None:
        replica = self._replica
        detail, progress = ("", 1.0) if replica else self._workers.awaited
        report = self._service.report(
            self._state,
            detail=detail,
            progress=progress,
            steps=self._stats.num_steps,
            samples=self._stats.snapshot(
                replica.scheduler if replica else None,
                now - self._last_step_at if self._is_busy else 0.0,
                self._intake.num_held,
            ),
            card=replica.card if replica else None,
            known=list(self._workers.reports.values()),
        )
        self._above.publish(report)

    def _stop(self) -> None:
        """End what is open, cleanly, and say so above."""
        self._state = "draining"
        if self._replica is not None:
            self._replica.committer.let_all_go("moved", "the server is shutting down")
        self._deliver()
        report: Report = self._service.report("draining", detail="stopping", steps=self._stats.num_steps)
        self._above.publish(report)


def main(argv: Sequence[str] | None = None) -> None:
    """Run an engine until SIGTERM."""
    service = bootstrap("engine", EngineConfig, argv)
    try:
        engine = Engine(service)

        def on_signal(number: int, frame: FrameType | None) -> None:
            engine.stop()

        signal.signal(signal.SIGTERM, on_signal)
        signal.signal(signal.SIGINT, on_signal)
        engine.run()
    finally:
        service.close()
