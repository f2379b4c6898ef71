"""Linear layers on weights that oneDNN has laid out for its matrix products beforehand.

At few rows a product is bound by reading the weights, and reading them in blocks of oneDNN's own order
is 1.1 to 3 times as fast as what F.linear does (64 rows to 1, bfloat16 and float32, two cores with AVX512-BF16).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

_TYPICAL_ROWS = 16
"""What the layout is chosen for; any other number works as well."""


def pack_linear(weight: torch.Tensor) -> torch.Tensor:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return weight
    is_fit = weight.dtype == torch.float32 or (
        weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
    return torch.ops.mkldnn._reorder_linear_weight(weight, _TYPICAL_ROWS) if is_fit else weight


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if not weight.is_mkldnn:
        return F.linear(x, weight, bias)
    num_rows = x.shape[0]
    padded = padded_rows(num_rows)
    if padded != num_rows:
        x = F.pad(x, (0, 0, 0, padded - num_rows))
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")[:num_rows]


def padded_rows(num_rows: int) -> int:
    """The number of rows a product is computed with.

    oneDNN compiles code for each number of rows and keeps it for ever, about 0.3 MB for bfloat16: without
    this a server would grow by hundreds of megabytes while it meets one number after the other.
    """
    if num_rows <= 16:
        return num_rows
    step = 8 if num_rows <= 64 else 32 if num_rows <= 256 else 128
    return -(-num_rows // step) * step
