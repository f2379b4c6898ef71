"""The same weight on a GPU: torch's product of 8-bit floats where the device has one."""

from __future__ import annotations

import torch

from ..cpu import linear_fp8 as specification
from ..cpu.linear_fp8 import Fp8Kind
from . import fp8


class Fp8PackedWeight(specification.Fp8PackedWeight):
    """A quantised weight [out, in], multiplied by torch._scaled_mm or, below capability 8.9, written out for it."""

    _pack = staticmethod(fp8.pack_fp8)
    _quantize = staticmethod(fp8.quantize_rows)
    _multiply = staticmethod(fp8.linear_quantized)


def fp8_kind(device: torch.device) -> Fp8Kind:
    if fp8.has_fp8(device):
        return Fp8Kind(Fp8PackedWeight, "scaled_mm", has_fused=True)
    # Triton cannot compile for e4m3 there at all, so its norms and activations write no such numbers.
    return specification.fp8_kind(device)._replace(has_fused=False)
