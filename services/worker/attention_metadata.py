"""What every layer must know of a step beside the hidden states: an argument of forward, made once a step."""

from __future__ import annotations

import numpy as np
import torch
from msgspec import Struct

from quire.kernels import RaggedBatch

from .batch_state import StepInputs


class AttentionMetadata(Struct, frozen=True):
    """Device tensors of one step of T tokens; see StepInputs for the columns."""

    positions: torch.Tensor
    """int32 [T]"""
    slot_mapping: torch.Tensor
    """int32 [T]"""
    cos_sin: torch.Tensor
    """float32 [max_model_len, head_dim], the model's table."""
    batch: RaggedBatch


class DeviceInputs(Struct, frozen=True):
    """A step as the model takes it."""

    input_ids: torch.Tensor
    """int32 [T]"""
    sampling_tokens: torch.Tensor
    """int64 [N]: the last token of each sampling row."""
    metadata: AttentionMetadata


def to_device(inputs: StepInputs, cos_sin: torch.Tensor, block_size: int) -> DeviceInputs:
    """All columns in one copy to the device of `cos_sin`."""
    sampling_tokens = inputs.cu_q[1:][inputs.sampling_rows] - 1
    columns = (
        inputs.input_ids,
        inputs.positions,
        inputs.slot_mapping,
        sampling_tokens,
        inputs.cu_q,
        inputs.seq_lens,
        inputs.block_tables.reshape(-1),
    )
    packed = torch.from_numpy(np.concatenate(columns, dtype=np.int32))
    if cos_sin.device.type != "cpu":
        packed = packed.pin_memory().to(cos_sin.device, non_blocking=True)
    input_ids, positions, slot_mapping, sampling, cu_q, seq_lens, tables = packed.split([len(c) for c in columns])
    batch = RaggedBatch(
        block_tables=tables.view(inputs.block_tables.shape),
        cu_q=cu_q,
        seq_lens=seq_lens,
        host_block_tables=inputs.block_tables,
        host_cu_q=inputs.cu_q,
        host_seq_lens=inputs.seq_lens,
        block_size=block_size,
    )
    return DeviceInputs(input_ids, sampling.long(), AttentionMetadata(positions, slot_mapping, cos_sin, batch))
