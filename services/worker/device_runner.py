"""The runner whose batch is a device's: plans are handed on, and answered when the device is done with them.

The GPU's. What a step samples stays on the device and feeds the next one there, so that plan k + 1 is handed on
while k runs; nothing in a step waits for the device. On a CPU the same, with streams that are done at once.
"""

from __future__ import annotations

import time
from collections import deque

import numpy as np
import torch
from msgspec import Struct

from quire.shared.messages import NewRow, Plan, StepResult

from .completion import Completion
from .cuda_graphs import GraphMaker, StepGraphs, StepReplay
from .device_slots import DeviceSlots
from .device_step import DeviceStep, StepShape
from .device_stream import DeviceEvent, DeviceStream, staging_memory
from .errors import PlanError
from .kv_cache import KVCache, disjoint_ends
from .masks import MaskRows
from .slot_lengths import Int32s, Limits, int32s
from .slot_tensors import SlotTensors
from .step_columns import HostColumns, StepColumns
from .step_results import Flight, LogprobsWanted, OfPrompt
from .step_runner import Model, WaitForMasks, no_masks

CHANGE_WORDS = 1 << 20
"""Of one copy; what a step changes beyond that goes in copies of its own before."""
_SLICE_BYTES = 64 << 20
"""Of float32 logits of a prompt at once."""
_NUM_LIKELIEST = 20
"""Logprobs of a token that a request may ask for."""


class Streams(Struct, frozen=True):
    """Where steps run, and where their results are copied out beside the next one."""

    compute: DeviceStream
    results: DeviceStream


class _Rows(Struct, frozen=True):
    """A step's rows as the host knows them."""

    slots: Int32s
    num_scheduled: Int32s
    num_computed: Int32s
    seq_lens: Int32s
    samples: np.ndarray
    """bool"""
    num_tokens: int


class DeviceRunner:
    """A StepRunner. cos_sin: the model's table, two positions beyond the longest text."""

    def __init__(
        self,
        model: Model,
        kv_cache: KVCache,
        cos_sin: torch.Tensor,
        limits: Limits,
        eos_token_ids: list[int],
        streams: Streams,
    ) -> None:
        device = cos_sin.device
        self.limits = limits
        self.max_rows = min(limits.max_num_seqs, limits.max_num_batched_tokens)
        self._kv_cache = kv_cache
        self._streams = streams
        with torch.inference_mode(), streams.compute.issue():
            tensors = SlotTensors(limits, device)
            self._columns = StepColumns(self.max_rows, CHANGE_WORDS + 2 * self.max_rows, device, streams.compute)
            self._step = DeviceStep(model, kv_cache, cos_sin, limits, tensors, self._columns.columns)
        self._slots = DeviceSlots(limits, tensors.places, eos_token_ids)
        self._allowed = tensors.allowed
        self._flights: deque[Flight] = deque()
        self._completion = Completion()
        self._copied: DeviceEvent | None = None
        """When the last step's results have left the device."""
        self._results_memory: list[torch.Tensor] = []
        """On the host, pinned, not in use."""
        self._device = device
        self._numbers = np.arange(self.max_rows + 1, dtype=np.int32)
        self.graphs: StepGraphs | None = None

    # --- the interface of a StepRunner ----------------------------------------------------------------

    @torch.inference_mode()
    def submit(self, plan: Plan, wait_for_masks: WaitForMasks = no_masks) -> None:
        start = time.perf_counter()
        changes = self._slots.apply(plan)
        copies = self._slots.copies(plan)
        if len(copies) > self.max_rows:
            raise PlanError(f"{len(copies)} copies for {self.max_rows} rows")
        rows = self._rows(plan)
        batches = list(changes.batches(CHANGE_WORDS))
        with self._streams.compute.issue():
            for batch in batches[:-1]:
                self._step.write(*self._columns.send_batch(batch))
            host = self._columns.host()
            shape, replay = self._shape(rows)
            wanted = self._fill(host, rows, shape)
            packed, segments, pairs = self._columns.send_columns(batches[-1] if batches else None, copies)
            if batches:
                self._step.write(packed, segments)
            self._remember(self._slots.penalised(plan.new_rows))
            if len(copies):
                self._kv_cache.copy_block_pairs(pairs, disjoint_ends(copies))
            hidden = self._forward(shape, replay)
        # The logits are under way by now. What ran before is answered while the masks are waited for.
        masks = MaskRows(wait_for_masks(plan.step), rows.samples, self.limits) if plan.awaits_masks else None
        with self._streams.compute.issue():
            if masks is not None:
                column = self._columns.columns.grammar_rows[: len(rows.slots)]
                masks.send(self._streams.compute, self._allowed, column, self._naming_slots(rows))
            flight = Flight(plan.step, start, np.flatnonzero(rows.samples).astype(np.int32))
            self._finish(flight, rows, shape, replay, wanted, hidden)

    def collect(self) -> list[StepResult]:
        self._completion.clear()
        results = []
        while self._flights and self._flights[0].is_finished:
            flight = self._flights.popleft()
            results.append(flight.result(self.max_rows))
            if flight.words is not None:
                self._results_memory.append(flight.words)
        return results

    def wait(self) -> None:
        if self._flights:
            self._flights[0].wait()

    def fileno(self) -> int | None:
        return self._completion.fileno()

    def close(self) -> None:
        # Of a step that was abandoned there is no flight, and it writes into the KV cache.
        self._streams.compute.record().wait()
        for flight in self._flights:
            flight.wait()
        self._completion.close()

    @property
    def graph_bytes(self) -> int:
        """What the captured graphs were seen to take."""
        return 0 if self.graphs is None else self.graphs.size_bytes

    # --- a step ---------------------------------------------------------------------------------------

    def _rows(self, plan: Plan) -> _Rows:
        slots, num_scheduled, num_computed = (
            int32s(column) for column in (plan.slots, plan.num_scheduled, plan.num_computed)
        )
        seq_lens = self._slots.check_step(slots, num_scheduled, num_computed)
        samples = seq_lens == self._slots.num_tokens[slots]
        self._slots.num_tokens[slots] += samples
        return _Rows(slots, num_scheduled, num_computed, seq_lens, samples, int(num_scheduled.sum()))

    def _wants_prompts(self, rows: _Rows) -> bool:
        return bool(self._slots.sampling.columns["prompt_logprobs"][rows.slots].any())

    def _naming_slots(self, rows: _Rows) -> Int32s:
        """Of each row its slot, if it names the tokens that may be drawn, else -1."""
        return np.where(self._slots.has_allowed[rows.slots], rows.slots, np.int32(-1))

    def _shape(self, rows: _Rows) -> tuple[StepShape | None, StepReplay | None]:
        """What is computed, and the graphs that do; None: nothing, and no graph."""
        num_rows = len(rows.slots)
        if not num_rows:
            return None, None
        if self.graphs is not None and not self._wants_prompts(rows):
            found = self.graphs.find(rows.num_tokens, num_rows)
            if found is not None:
                return found.shape, found
        is_long = rows.num_scheduled != 1
        num_decode_rows = int(is_long.argmax()) if is_long.any() else num_rows
        num_columns = -(-int(rows.seq_lens.max()) // self.limits.block_size)
        return StepShape(rows.num_tokens, num_rows, num_decode_rows, num_columns, bool(rows.samples.any())), None

    def _fill(self, host: HostColumns, rows: _Rows, shape: StepShape | None) -> LogprobsWanted | None:
        """Write the columns of a step, padded to its shape."""
        if shape is None:
            return None
        count, end = len(rows.slots), shape.num_rows
        host.slots[:count] = rows.slots
        host.slots[count:end] = -1
        host.num_computed[:count] = rows.num_computed
        host.num_computed[count:end] = 0
        if shape.num_decode_rows == end:
            host.cu_q[: end + 1] = self._numbers[: end + 1]
        else:
            host.cu_q[0] = 0
            np.cumsum(rows.num_scheduled, out=host.cu_q[1 : count + 1])
            host.cu_q[count + 1 : end + 1] = rows.num_tokens
        host.sampling_slots[:count] = np.where(rows.samples, rows.slots, -1)
        host.sampling_slots[count:end] = -1
        host.grammar_rows[:count] = self._naming_slots(rows)
        host.grammar_rows[count:end] = -1
        wanted = self._slots.sampling.columns["logprobs"][rows.slots] * rows.samples
        if not wanted.any():
            return None
        chosen = np.flatnonzero(wanted)
        host.logprob_rows[: len(chosen)] = chosen
        return LogprobsWanted((np.cumsum(rows.samples) - 1)[chosen].tolist(), (wanted[chosen] - 1).tolist())

    def _remember(self, penalised: list[NewRow]) -> None:
        for row in penalised:
            self._step.remember(row.slot, len(row.token_ids) // 4, row.num_prompt_tokens)

    def _forward(self, shape: StepShape | None, replay: StepReplay | None) -> torch.Tensor | None:
        """Hidden states, of a step without a graph."""
        if replay is not None:
            replay.forward()
        elif shape is not None:
            return self._step.forward(shape)
        return None

    def _finish(
        self,
        flight: Flight,
        rows: _Rows,
        shape: StepShape | None,
        replay: StepReplay | None,
        wanted: LogprobsWanted | None,
        hidden: torch.Tensor | None,
    ) -> None:
        """Sample, and have the results copied out beside what comes next."""
        compute, side = self._streams.compute, self._streams.results
        if self._copied is not None:  # the results before, which this step's take the place of
            compute.follow(self._copied)
        if replay is not None:
            replay.sample()
        elif shape is not None and shape.is_sampling:
            self._step.sample(shape.num_rows)
        sampled, of_prompts = None, []
        if wanted is not None:
            chosen = self._columns.columns.logprob_rows[: len(wanted.names)]
            sampled = wanted, self._step.logprobs(chosen, max(wanted.counts))
        if hidden is not None and self._wants_prompts(rows):
            of_prompts = self._of_prompts(hidden, rows)
        side.follow(compute.record())
        results = None
        if shape is not None and shape.is_sampling:
            results = self._step.results.words, self._memory()
        self._copied = flight.copy_out(side, results, sampled, of_prompts)
        self._flights.append(flight)
        self._completion.watch(self._copied)

    def _memory(self) -> torch.Tensor:
        if self._results_memory:
            return self._results_memory.pop()
        return staging_memory(self._step.results.words.nbytes, self._device).view(torch.int32)

    def _of_prompts(self, hidden: torch.Tensor, rows: _Rows) -> list[OfPrompt]:
        """Of the prompt token after each scheduled position that has one, for rows that want it."""
        wanted = self._slots.sampling.columns["prompt_logprobs"][rows.slots]
        starts = np.cumsum(rows.num_scheduled) - rows.num_scheduled
        at_once = max(1, _SLICE_BYTES // (4 * self.limits.vocab_size))
        found = []
        for row in np.flatnonzero(wanted).tolist():
            slot, start, first = int(rows.slots[row]), int(starts[row]), int(rows.num_computed[row]) + 1
            num_targets = min(int(rows.num_scheduled[row]), int(self._slots.num_prompt_tokens[slot]) - first)
            if num_targets > 0:
                part = hidden[start : start + num_targets]
                num_top = int(wanted[row]) - 1
                found.append(OfPrompt(row, self._step.prompt_logprobs(part, slot, first, num_top, at_once)))
        return found

    # --- before the first step ------------------------------------------------------------------------

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Run the largest step there can be, and the smallest, with logprobs of all rows.

        So no request pays for first uses, and what steps take of the device's memory is taken.
        """
        self._send_dummies()
        limits = self.limits
        with self._streams.compute.issue():
            for num_tokens, num_rows, num_decode_rows in ((limits.max_num_batched_tokens, self.max_rows, 0), (1, 1, 1)):
                self._step.forward(StepShape(num_tokens, num_rows, num_decode_rows, limits.num_table_blocks))
                self._step.sample(num_rows)
                rows = self._columns.columns.logprob_rows[:num_rows]
                self._step.logprobs(rows, min(_NUM_LIKELIEST, limits.vocab_size))
        self._streams.compute.record().wait()

    @torch.inference_mode()
    def capture(self, graphs: StepGraphs, maker: GraphMaker) -> None:
        """Have steps replayed by graphs from now on."""
        self._send_dummies()
        graphs.capture(maker, self._streams.compute, self._step)
        self.graphs = graphs

    def _send_dummies(self) -> None:
        """Rows of one token in every slot, whose KV goes to the first block: nothing lives yet."""
        host = self._columns.host()
        host.slots[:] = host.sampling_slots[:] = host.logprob_rows[:] = np.arange(self.max_rows)
        host.num_computed[:] = 0
        host.cu_q[:] = self._numbers
        host.grammar_rows[:] = -1
        self._columns.send_columns(None, np.empty((0, 2), np.int32))
