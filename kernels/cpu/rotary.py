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
    cache_scales: tuple[float, float] | None = None,
) -> torch.Tensor:
    num_kv_heads, _, head_dim = key_cache.shape[1:]
    heads = qkv.view(qkv.shape[0], -1, head_dim)
    num_heads = heads.shape[1] - 2 * num_kv_heads
    if q_norm is not None and k_norm is not None:
        q = F.rms_norm(heads[:, :num_heads], (head_dim,), q_norm, epsilon)
        k = F.rms_norm(heads[:, num_heads : num_heads + num_kv_heads], (head_dim,), k_norm, epsilon)
        rotated = rotate(torch.cat((q, k), dim=1), cos_sin, positions)
    else:
        rotated = rotate(heads[:, : num_heads + num_kv_heads], cos_sin, positions)
    key_scale, value_scale = cache_scales or (1.0, 1.0)
    _write(rotated[:, num_heads:], key_cache, slot_mapping, key_scale)
    _write(heads[:, num_heads + num_kv_heads :], value_cache, slot_mapping, value_scale)
    return rotated[:, :num_heads]


def _write(x: torch.Tensor, cache: torch.Tensor, slot_mapping: torch.Tensor, scale: float) -> None:
    """x [T, Hkv, D] to the cache; to an fp8 one divided by `scale` and saturating. Negative slots pad."""
    is_token = slot_mapping >= 0
    if not bool(is_token.all()):
        x, slot_mapping = x[is_token], slot_mapping[is_token]
    block_size = cache.shape[2]
    blocks, offsets = slot_mapping // block_size, slot_mapping % block_size
    if cache.dtype.itemsize > 1:
        cache[blocks, :, offsets] = x
        return
    limit = torch.finfo(cache.dtype).max
    stored = (x.float() / scale).clamp(-limit, limit).to(cache.dtype)
    cache.view(torch.uint8)[blocks, :, offsets] = stored.view(torch.uint8)


def rotate(x: torch.Tensor, cos_sin: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """x [T, heads, D], turned by each token's angles, computed in float32. Returns a new tensor of x's dtype."""
    cos, sin = cos_sin.index_select(0, positions).unsqueeze(1).chunk(2, dim=-1)
    first, second = x.float().chunk(2, dim=-1)
    turned = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
    return turned.to(x.dtype)
