"""The model runner: a loaded model, and what carries out plans on it under the current configuration.

Called by service.py; plans go in, steps' results come out. Knows no links and no requests, and leaves the steps
themselves to a StepRunner.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from quire import kernels
from quire.shared.messages import Configure, Plan, StepResult, WorkerReady

from .debugging import Debugging
from .device import available_bytes, cache_dtype
from .device_memory import CudaMemory, DeviceMemory, Room, measure_room
from .device_setup import Rehearsal, is_device_runner, make_device_runner, reserved_parts
from .errors import PlanError
from .freed_memory import keep_freed_memory
from .host_runner import make_host_runner
from .kernel_variants import KernelVariants
from .kv_cache import KVCache
from .layers.placement import Placement
from .layers.rotary import cos_sin_table
from .loaded_model import load_model
from .memory_plan import MemoryPlan, plan_memory
from .models.decoder import Decoder
from .out_of_memory import telling
from .slot_lengths import Limits
from .step_runner import StepRunner, WaitForMasks, no_masks
from .tensor_parallel import ALONE, RankGroup
from .trial_step import TrialSteps

logger = logging.getLogger("quire.worker")


class ModelRunner:
    """Loads at once; `configure` before the first `step`. Raises ModelFilesError and DeviceError with sentences."""

    def __init__(
        self,
        folder: Path,
        device: str = "auto",
        dtype: str = "auto",
        threads: int | None = None,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
        linear: str = "auto",
        quantization: str = "none",
        group: RankGroup = ALONE,
        load_format: str = "auto",
        kv_cache_dtype: str = "auto",
        debugging: Debugging = Debugging(),  # noqa: B008  a frozen value
        runner: str = "auto",
        enforce_eager: bool = False,
    ) -> None:
        self._wanted_runner = runner
        self._has_graphs = not enforce_eager
        self._variants: KernelVariants | None = None

        def compile_kernels(model: Decoder, placement: Placement, is_fp8: bool) -> None:
            if placement.device.type == "cuda":
                self._variants = KernelVariants(model, placement, cache_dtype(kv_cache_dtype, placement), is_fp8)

        given = (linear, quantization, group, load_format, compile_kernels)
        loaded = load_model(folder, device, dtype, threads, on_progress, *given)
        self.config = loaded.config
        self.eos_token_ids = loaded.eos_token_ids
        self.placement = loaded.placement
        self.model = loaded.model
        self.weight_bytes = loaded.weight_bytes
        self.group = group
        self._cache_dtype = cache_dtype(kv_cache_dtype, loaded.placement)
        self._is_bounded = self._can_be_captured()
        """Whether a step's memory follows from its shape alone, whatever its rows' lengths are."""
        self._has_graphs = self._has_graphs and self._is_bounded
        is_cuda = loaded.placement.device.type == "cuda"
        self.device_memory: DeviceMemory | None = CudaMemory(loaded.placement.device) if is_cuda else None
        self._linear_choice = loaded.linear_choice
        self._threads = loaded.num_threads
        self._debugging = debugging
        self._kv_cache: KVCache | None = None
        self._steps: StepRunner | None = None

    def _can_be_captured(self) -> bool:
        device, dtype = self.placement.device, self.placement.dtype
        if kernels.can_be_captured(device, self.config.head_dim, dtype, self._cache_dtype):
            return True
        logger.warning("no CUDA graphs: %s kernels attend with heads of %d by waiting for the device",
                       kernels.backend_name(device.type), self.config.head_dim)  # fmt: skip
        return False

    def use_threads(self) -> int:
        """Have the calling thread compute with the threads this runner was given or has chosen."""
        torch.set_num_threads(self._threads)
        return self._threads

    def configure(self, wanted: Configure) -> WorkerReady:
        """Take the memory and start with an empty batch; what a configuration before took is given back."""
        self.group.check_plans()
        if self._steps is not None:
            self._steps.close()
        self._steps = self._kv_cache = None
        if self._variants is not None:
            self._variants.finish(wanted.block_size)
        free_bytes = available_bytes(self.placement.device, self.group.size)
        is_device = is_device_runner(self._wanted_runner, self.placement.device)
        room = self._room(wanted, is_device)
        beside = reserved_parts(self.config, wanted, self.placement.dtype, self._has_graphs, room) if is_device else []
        plan = plan_memory(
            self.config,
            wanted,
            self.placement.device,
            self.placement.dtype,
            self.weight_bytes,
            free_bytes,
            self._cache_dtype,
            beside,
            room,
        )
        plan = plan.with_blocks(self.group.smallest(plan.num_blocks, self.placement.device), wanted.block_size)
        limits = self.limits = Limits(
            max_num_seqs=wanted.max_num_seqs,
            max_num_batched_tokens=wanted.max_num_batched_tokens,
            max_model_len=plan.max_model_len,
            block_size=wanted.block_size,
            num_blocks=plan.num_blocks,
            vocab_size=self.config.vocab_size,
        )
        with torch.inference_mode():
            # Two positions beyond the longest text, as in BatchState.
            cos_sin = cos_sin_table(self.config, plan.max_model_len + 2, self.placement.device)
            # The cache itself shall go back as a whole when another configuration comes.
            keep_freed_memory(False)
            self._kv_cache = KVCache(self.config, self.placement, plan.num_blocks, wanted.block_size, self._cache_dtype)
            keep_freed_memory(True)
        given = (self.model, self._kv_cache, cos_sin, limits, self.eos_token_ids)
        parts = plan.parts
        if is_device:
            steps = make_device_runner(*given, has_graphs=self._has_graphs)
            parts = [(what, steps.graph_bytes if what == "graphs" else size) for what, size in parts]
        else:
            steps = make_host_runner(*given)
        self._steps = self._debugging.around(steps, self._kv_cache, wanted.block_size)
        return self._ready(plan, parts)

    def _room(self, wanted: Configure, is_device: bool) -> Room | None:
        """By the device's own numbers; None on a CPU, whose memory is everybody's. Raises DeviceError."""
        if self.device_memory is None:
            return None
        trial = TrialSteps(self.model, self.config, self.placement, self._cache_dtype, wanted)
        if is_device and self._is_bounded:
            trial = Rehearsal(self.model, self.placement, self._cache_dtype, wanted, self._has_graphs)
        with telling("in a trial step of the largest shapes", "lower --max-num-batched-tokens or --max-num-seqs"):
            return measure_room(self.device_memory, trial, wanted.memory_utilization)

    def _ready(self, plan: MemoryPlan, parts: list[tuple[str, int]]) -> WorkerReady:
        device = self.placement.device
        return WorkerReady(
            num_blocks=plan.num_blocks,
            max_model_len=plan.max_model_len,
            vocab_size=self.config.vocab_size,
            eos_token_ids=self.eos_token_ids,
            device=device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
            dtype=str(self.placement.dtype).removeprefix("torch."),
            backend=f"{kernels.backend_name(device.type)}, linear: {self._linear_choice.name}{self._cache_note()}",
            memory_plan=parts,
        )

    def _cache_note(self) -> str:
        return "" if self._cache_dtype == self.placement.dtype else ", fp8 KV cache"

    def submit(self, plan: Plan, wait_for_masks: WaitForMasks = no_masks) -> None:
        """Carry out one plan, or have it carried out. Raises PlanError, and what `wait_for_masks` raises."""
        self.group.begin_plan()
        self._runner().submit(plan, wait_for_masks)

    def collect(self) -> list[StepResult]:
        """Answers that are there and were not collected yet, in the order of their plans; never waits."""
        return self._runner().collect() if self._steps is not None else []

    def fileno(self) -> int | None:
        """A descriptor that is readable when there is something to collect; None: as soon as submit returns."""
        return None if self._steps is None else self._steps.fileno()

    def step(self, plan: Plan, wait_for_masks: WaitForMasks = no_masks) -> StepResult:
        """Carry out one plan and wait for its answer, which no other may be awaited with. Raises as `submit` does."""
        self.submit(plan, wait_for_masks)
        runner = self._runner()
        runner.wait()
        (result,) = runner.collect()
        return result

    def _runner(self) -> StepRunner:
        if self._steps is None:
            raise PlanError("a plan came before any configuration")
        return self._steps
