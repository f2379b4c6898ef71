"""The thread that imports torch and loads the model while the worker's loop tells how far it is.

Started by service.py, which looks at its fields; a group of ranks meets here too. Torch is imported by `run` alone.
"""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from quire.shared import model_files
from quire.shared.config import WorkerConfig
from quire.shared.service import Service

from .debugging import Debugging
from .start_phases import StartPhases

if TYPE_CHECKING:
    from .model_runner import ModelRunner
    from .peer_watch import PeerWatch
    from .tensor_parallel import RankGroup

logger = logging.getLogger("quire.worker")

_SAME_ON_ALL_RANKS = ("model", "load_format", "quantization", "kv_cache_dtype", "runner", "enforce_eager")
"""Settings without which ranks would not draw the same tokens, or not meet in the same collectives."""


class Loading(threading.Thread):
    """Imports torch and loads the model; `runner` or `error` is there when it has ended."""

    def __init__(self, service: Service[WorkerConfig], phases: StartPhases, debugging: Debugging) -> None:
        super().__init__(name="loading", daemon=True)
        self._debugging = debugging
        self._service = service
        self._config = service.config
        self._phases = phases
        self.detail = "looking for the model"
        self.progress = 0.0
        self.runner: ModelRunner | None = None
        self.error: BaseException | None = None
        self.watch: PeerWatch | None = None

    def run(self) -> None:
        try:
            self._phases.begin("folder")
            # Before torch: what is wrong with the folder is then known at once.
            folder = self._find()
            model_files.check(str(folder), has_weights=self._config.load_format != "dummy")
            self._begin("torch", "importing torch")
            from .device import choose_kernels
            from .model_runner import ModelRunner
            from .rendezvous import group_of

            config = self._config
            group = group_of(self._service.name, config.tensor_parallel_size)
            self._begin("kernels", "preparing the kernels")
            choose_kernels(config.kernels, config.device)
            self._begin("weights", "loading weights")
            runner = ModelRunner(
                folder,
                config.device,
                config.dtype,
                config.threads,
                self._note,
                config.linear,
                config.quantization,
                group,
                load_format=config.load_format,
                debugging=self._debugging,
                kv_cache_dtype=config.kv_cache_dtype,
                runner=config.runner,
                enforce_eager=config.enforce_eager,
            )
            if group.size > 1:
                self._begin("group", "waiting for the other ranks")
                self._join(runner, group)
            self.runner = runner
            self._phases.end()
        except BaseException as error:  # told by the main thread
            self.error = error

    def _begin(self, phase: str, detail: str) -> None:
        self._phases.begin(phase)
        self.detail = detail

    def _find(self) -> Path:
        model = self._config.model
        if model is not None and not Path(model).expanduser().exists() and model_files.is_hub_id(model):
            self.detail = f"fetching {model} from the Hugging Face hub"
        return model_files.find_model(model, has_weights=self._config.load_format != "dummy")

    def _join(self, runner: ModelRunner, group: RankGroup) -> None:
        from .peer_watch import PeerWatch
        from .rendezvous import Member, Rendezvous

        me, run_dir = Member(self._service.name, self._service.incarnation), self._service.directory.path
        placement = runner.placement
        rendezvous = Rendezvous(group, me, run_dir, placement.device)
        chosen = (f"{name} {getattr(self._config, name)}" for name in _SAME_ON_ALL_RANKS)
        others = rendezvous.meet(", ".join([placement.device.type, str(placement.dtype), *chosen]))
        self.watch = PeerWatch(run_dir, others, _end_with)
        self.watch.start()
        rendezvous.join()

    def _note(self, done: int, total: int) -> None:
        self.progress = done / max(1, total)


def _end_with(name: str) -> None:
    """Another rank is gone: the main thread may wait for it for ever, so all ends here."""
    logger.critical("%s is gone, and with it the group of this rank", name)
    logging.shutdown()
    os._exit(1)
