"""Per-head norm, rotary embedding (Su et al. 2021, halves as in GPT-NeoX) and the cache write, as one operation."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def rope_and_cache(
    qkv: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    epsilon: float,
    cos_sin: torch.Tensor,
    positions: torch.Tensor,
    slot_mapping: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
) -> torch.Tensor:
    num_kv_heads, block_size, head_dim = key_cache.shape[1:]
    heads = qkv.view(qkv.shape[0], -1, head_dim)
    num_heads = heads.shape[1] - 2 * num_kv_heads
    if q_norm is not None and k_norm is not None:
        q = F.rms_norm(heads[:, :num_heads], (head_dim,), q_norm, epsilon)
        k = F.rms_norm(heads[:, num_heads : num_heads + num_kv_heads], (head_dim,), k_norm, epsilon)
        rotated = rotate(torch.cat((q, k), dim=1), cos_sin, positions)
    else:
        rotated = rotate(heads[:, : num_heads + num_kv_heads], cos_sin, positions)
    blocks, offsets = slot_mapping // block_size, slot_mapping % block_size
    key_cache[blocks, :, offsets] = rotated[:, num_heads:]
    value_cache[blocks, :, offsets] = heads[:, num_heads + num_kv_heads :]
    return rotated[:, :num_heads]


def rotate(x: torch.Tensor, cos_sin: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """x [T, heads, D], turned by each token's angles, computed in float32. Returns a new tensor of x's dtype."""
    cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)
