"""The model runner: a loaded model with its KV cache and batch, carrying out plans one after the other.

Called by service.py; a plan goes in, a step's result comes out. Knows no links and no requests.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from quire import kernels
from quire.shared import model_files
from quire.shared.messages import Configure, Plan, StepResult, TokenLogprobs, WorkerReady

from .attention_metadata import to_device
from .batch_state import BatchState, Limits, StepInputs, int32s
from .device import available_bytes, choose_placement, choose_threads
from .errors import PlanError
from .freed_memory import keep_freed_memory
from .kv_cache import KVCache
from .layers.rotary import cos_sin_table
from .logprobs import prompt_logprobs
from .memory_plan import MemoryPlan, plan_memory
from .models import build_model
from .packing import Packing, choose_linear
from .sampler import Sampled, sample_rows
from .sampling_state import SamplingState
from .weights import load_weights

_NO_TOKENS = Sampled(np.empty(0, np.int32), [], [])


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
    ) -> None:
        self.config = model_files.read_model_config(folder)
        self.eos_token_ids = model_files.eos_token_ids(folder)
        entries = model_files.read_weight_entries(folder)
        self._threads = threads or choose_threads(sum(entry.size_bytes for entry in entries.values()))
        self._kv_cache: KVCache | None = None
        self.use_threads()
        self.placement = choose_placement(device, dtype, self.config, entries)
        with torch.inference_mode():
            self.model = build_model(self.config, self.placement)
            targets = self.model.targets()
            self._linear_choice = choose_linear(self.model, self.placement, linear, quantization)
            packing = Packing(self.model, targets, self._linear_choice)
            load_weights(entries, targets, self.config.tie_word_embeddings, on_progress, packing.filled)
            self.weight_bytes = packing.weight_bytes()

    def use_threads(self) -> int:
        """Have the calling thread compute with the threads this runner was given or has chosen."""
        torch.set_num_threads(self._threads)
        return self._threads

    def configure(self, wanted: Configure) -> WorkerReady:
        """Take the memory and start with an empty batch; what a configuration before took is given back."""
        self._kv_cache = None
        free_bytes = available_bytes(self.placement.device)
        plan = plan_memory(
            self.config, wanted, self.placement.device, self.placement.dtype, self.weight_bytes, free_bytes
        )
        self.limits = Limits(
            max_num_seqs=wanted.max_num_seqs,
            max_num_batched_tokens=wanted.max_num_batched_tokens,
            max_model_len=plan.max_model_len,
            block_size=wanted.block_size,
            num_blocks=plan.num_blocks,
            vocab_size=self.config.vocab_size,
        )
        sampling = SamplingState(wanted.max_num_seqs, self.config.vocab_size, self.eos_token_ids)
        self.batch = BatchState(self.limits, sampling)
        with torch.inference_mode():
            # Two positions beyond the longest text, as in BatchState.
            self._cos_sin = cos_sin_table(self.config, plan.max_model_len + 2, self.placement.device)
            # The cache itself shall go back as a whole when another configuration comes.
            keep_freed_memory(False)
            self._kv_cache = KVCache(self.config, self.placement, plan.num_blocks, wanted.block_size)
            keep_freed_memory(True)
            self._warm_up()
        return self._ready(plan)

    def _ready(self, plan: MemoryPlan) -> WorkerReady:
        device = self.placement.device
        return WorkerReady(
            num_blocks=plan.num_blocks,
            max_model_len=plan.max_model_len,
            vocab_size=self.config.vocab_size,
            eos_token_ids=self.eos_token_ids,
            device=device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
            dtype=str(self.placement.dtype).removeprefix("torch."),
            backend=f"{kernels.backend_name(device.type)}, linear: {self._linear_choice.name}",
            memory_plan=plan.parts,
        )

    def _warm_up(self) -> None:
        """Run a chunk, some rows and a single one, so that no request pays for first uses."""
        size = self.limits.block_size
        tokens = min(16, self.limits.max_model_len, self.limits.num_blocks * size, self.limits.max_num_batched_tokens)
        rows = min(16, self.limits.max_num_seqs, self.limits.num_blocks, self.limits.max_num_batched_tokens)
        for num_rows, length in ((1, tokens), (rows, 1), (1, 1)):
            num_blocks = -(-length // size)
            positions = np.tile(np.arange(length, dtype=np.int32), num_rows)
            firsts = np.repeat(np.arange(num_rows, dtype=np.int32) * (num_blocks * size), length)
            inputs = StepInputs(
                slots=np.arange(num_rows, dtype=np.int32),
                input_ids=np.zeros(num_rows * length, np.int32),
                positions=positions,
                slot_mapping=firsts + positions,
                cu_q=np.arange(num_rows + 1, dtype=np.int32) * length,
                seq_lens=np.full(num_rows, length, np.int32),
                block_tables=np.arange(num_rows * num_blocks, dtype=np.int32).reshape(num_rows, -1),
                sampling_rows=np.arange(num_rows, dtype=np.int32),
            )
            hidden, of_sampling = self._forward(inputs)
            sample_rows(self.model.compute_logits(hidden[of_sampling]), inputs.slots, self.batch)

    def _forward(self, inputs: StepInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [T, hidden_size], and the indices of those that sample."""
        if self._kv_cache is None:
            raise PlanError("a plan came before any configuration")
        on_device = to_device(inputs, self._cos_sin, self.limits.block_size)
        hidden = self.model.forward(on_device.input_ids, on_device.metadata, self._kv_cache)
        return hidden, on_device.sampling_tokens

    @torch.inference_mode()
    def step(self, plan: Plan) -> StepResult:
        """Carry out one plan. Raises PlanError."""
        start = time.perf_counter()
        if self._kv_cache is None:
            raise PlanError("a plan came before any configuration")
        self.batch.apply(plan)
        if plan.copies:
            self._kv_cache.copy_blocks(self._copies(plan))
        sampled, of_prompts = _NO_TOKENS, []
        if plan.slots:
            inputs = self.batch.inputs(plan)
            sampled, of_prompts = self._compute(inputs)
        return StepResult(
            step=plan.step,
            token_ids=sampled.token_ids.tobytes(),
            failed_rows=sampled.failed_rows,
            logprobs=sampled.logprobs,
            prompt_logprobs=of_prompts,
            seconds=time.perf_counter() - start,
        )

    def _copies(self, plan: Plan) -> list[tuple[int, int]]:
        pairs = int32s(plan.copies).reshape(-1, 2)
        if pairs.min() < 0 or pairs.max() >= self.limits.num_blocks:
            raise PlanError(f"copies {pairs.tolist()} of {self.limits.num_blocks} blocks")
        return [(source, target) for source, target in pairs.tolist()]

    def _compute(self, inputs: StepInputs) -> tuple[Sampled, list[TokenLogprobs]]:
        hidden, tokens = self._forward(inputs)
        of_prompts: list[TokenLogprobs] = []
        if self.batch.sampling.columns["prompt_logprobs"][inputs.slots].any():
            of_prompts = prompt_logprobs(hidden, inputs, self.batch, self.model.compute_logits)
        if not len(inputs.sampling_rows):
            return _NO_TOKENS, of_prompts
        slots = inputs.slots[inputs.sampling_rows]
        logits = self.model.compute_logits(hidden.index_select(0, tokens))
        sampled = sample_rows(logits, slots, self.batch)
        self.batch.append(slots, sampled.token_ids)
        return sampled, of_prompts
