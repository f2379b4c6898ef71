"""The runner whose batch is in the host's memory: a plan is computed, and answered, while it is submitted.

The CPU's. Inputs are put together as arrays, and what a step samples is known when it ends.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from quire.shared.messages import Plan, StepResult, TokenLogprobs

from .attention_metadata import to_device
from .batch_state import BatchState, StepInputs
from .kv_cache import KVCache
from .logprobs import prompt_logprobs
from .sampler import Sampled, sample_rows
from .sampling_state import SamplingState
from .slot_lengths import Limits
from .step_runner import Model, WaitForMasks, no_masks

_NO_TOKENS = Sampled(np.empty(0, np.int32), [], [])


class HostRunner:
    """A StepRunner. cos_sin: the model's table, two positions beyond the longest text, as in BatchState."""

    def __init__(
        self, model: Model, kv_cache: KVCache, cos_sin: torch.Tensor, limits: Limits, eos_token_ids: list[int]
    ) -> None:
        self._model = model
        self._kv_cache = kv_cache
        self._cos_sin = cos_sin
        self._limits = limits
        self._batch = BatchState(limits, SamplingState(limits.max_num_seqs, limits.vocab_size, eos_token_ids))
        self._results: list[StepResult] = []

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run a chunk, some rows and a single one, so that no request pays for first uses."""
        limits, size = self._limits, self._limits.block_size
        tokens = min(16, limits.max_model_len, limits.num_blocks * size, limits.max_num_batched_tokens)
        rows = min(16, limits.max_num_seqs, limits.num_blocks, limits.max_num_batched_tokens)
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
            sample_rows(self._model.compute_logits(hidden[of_sampling]), inputs.slots, self._batch)

    @torch.inference_mode()
    def submit(self, plan: Plan, wait_for_masks: WaitForMasks = no_masks) -> None:
        start = time.perf_counter()
        self._batch.apply(plan)
        if plan.copies:
            self._kv_cache.copy_blocks([(source, target) for source, target in self._batch.copies(plan).tolist()])
        sampled, of_prompts = _NO_TOKENS, []
        if plan.slots:
            sampled, of_prompts = self._compute(self._batch.inputs(plan), plan, wait_for_masks)
        result = StepResult(
            step=plan.step,
            token_ids=sampled.token_ids.tobytes(),
            failed_rows=sampled.failed_rows,
            logprobs=sampled.logprobs,
            prompt_logprobs=of_prompts,
            seconds=time.perf_counter() - start,
        )
        self._results.append(result)

    def collect(self) -> list[StepResult]:
        results, self._results = self._results, []
        return results

    def wait(self) -> None:
        """Nothing is under way when `submit` has returned."""

    def fileno(self) -> int | None:
        return None

    def close(self) -> None:
        pass

    def _forward(self, inputs: StepInputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [T, hidden_size], and the indices of those that sample."""
        on_device = to_device(inputs, self._cos_sin, self._limits.block_size)
        hidden = self._model.forward(on_device.input_ids, on_device.metadata, self._kv_cache)
        return hidden, on_device.sampling_tokens

    def _compute(
        self, inputs: StepInputs, plan: Plan, wait_for_masks: WaitForMasks
    ) -> tuple[Sampled, list[TokenLogprobs]]:
        hidden, tokens = self._forward(inputs)
        of_prompts: list[TokenLogprobs] = []
        if self._batch.sampling.columns["prompt_logprobs"][inputs.slots].any():
            of_prompts = prompt_logprobs(hidden, inputs, self._batch, self._model.compute_logits)
        if not len(inputs.sampling_rows):
            return _NO_TOKENS, of_prompts
        slots = inputs.slots[inputs.sampling_rows]
        logits = self._model.compute_logits(hidden.index_select(0, tokens))
        masks = wait_for_masks(plan.step) if plan.awaits_masks else None
        sampled = sample_rows(logits, slots, self._batch, masks)
        self._batch.append(slots, sampled.token_ids)
        return sampled, of_prompts


def make_host_runner(
    model: Model, kv_cache: KVCache, cos_sin: torch.Tensor, limits: Limits, eos_token_ids: list[int]
) -> HostRunner:
    """Warmed up."""
    runner = HostRunner(model, kv_cache, cos_sin, limits, eos_token_ids)
    runner.warm_up()
    return runner
