"""Norms, rotary embedding with the cache write, and gated activations, natively for float32 and bfloat16.

Each gives to torch what source/elementwise.cpp does not take: other types, tensors that are not contiguous.
"""

from __future__ import annotations

import torch

from .. import activation as torch_activation
from .. import norm as torch_norm
from .. import rotary as torch_rotary
from .library import FLOAT, LONG, POINTER, Function, function

_NAMES = {torch.float32: "f32", torch.bfloat16: "bf16"}
_MAX_HEAD_DIM = 512


def _by_type(name: str, *argument_types: object, returns: object = None) -> dict[torch.dtype, Function]:
    return {dtype: function(f"{name}_{end}", *argument_types, returns=returns) for dtype, end in _NAMES.items()}


_rms_norm = _by_type("rms_norm", *[POINTER] * 3, LONG, LONG, FLOAT)
_add_rms_norm = _by_type("add_rms_norm", *[POINTER] * 4, LONG, LONG, FLOAT)
_rope_and_cache = _by_type(
    "rope_and_cache", *[POINTER] * 3, FLOAT, *[POINTER] * 6, *[LONG] * 7, returns=LONG
)  # fmt: skip
_gated_activation = _by_type("gated_activation", *[POINTER] * 2, *[LONG] * 3)
_ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_pytorch_tanh": 2, "gelu_new": 2}


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    call = _rms_norm.get(x.dtype)
    num_numbers = x.numel()
    if call is None or weight.dtype != x.dtype or not num_numbers or not x.is_contiguous():
        return torch_norm.rms_norm(x, weight, epsilon)
    size = weight.numel()
    if size != x.shape[-1] or not weight.is_contiguous():
        return torch_norm.rms_norm(x, weight, epsilon)
    out = torch.empty_like(x)
    call(x.data_ptr(), weight.data_ptr(), out.data_ptr(), num_numbers // size, size, epsilon)
    return out


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    call = _add_rms_norm.get(x.dtype)
    num_numbers, size = x.numel(), weight.numel()
    if (
        call is None
        or not num_numbers
        or residual.dtype != x.dtype
        or weight.dtype != x.dtype
        or residual.shape != x.shape
        or size != x.shape[-1]
        or not (x.is_contiguous() and residual.is_contiguous() and weight.is_contiguous())
    ):
        return torch_norm.add_rms_norm(x, residual, weight, epsilon)
    out = torch.empty_like(x)
    call(
        x.data_ptr(), residual.data_ptr(), weight.data_ptr(), out.data_ptr(), num_numbers // size, size, epsilon
    )  # fmt: skip
    return out


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
    """Raises IndexError, with nothing written, where a position or a slot is out of range."""
    if q_norm is None or k_norm is None:
        q_norm = k_norm = None
    if not _is_taken(qkv, q_norm, k_norm, cos_sin, positions, slot_mapping, key_cache, value_cache):
        return torch_rotary.rope_and_cache(
            qkv, q_norm, k_norm, epsilon, cos_sin, positions, slot_mapping, key_cache, value_cache, cache_scales
        )
    num_blocks, num_kv_heads, block_size, head_dim = key_cache.shape
    num_tokens, width = qkv.shape
    num_heads = width // head_dim - 2 * num_kv_heads
    q = torch.empty((num_tokens, num_heads, head_dim), dtype=qkv.dtype)
    is_done = _rope_and_cache[qkv.dtype](
        qkv.data_ptr(),
        None if q_norm is None else q_norm.data_ptr(),
        None if k_norm is None else k_norm.data_ptr(),
        epsilon, cos_sin.data_ptr(), positions.data_ptr(), slot_mapping.data_ptr(),
        q.data_ptr(), key_cache.data_ptr(), value_cache.data_ptr(),
        num_tokens, num_heads, num_kv_heads, head_dim, block_size, num_blocks, cos_sin.shape[0],
    )  # fmt: skip
    if not is_done:
        raise IndexError("a position or a slot is out of range")
    return q


def _is_taken(
    qkv: torch.Tensor,
    q_norm: torch.Tensor | None,
    k_norm: torch.Tensor | None,
    cos_sin: torch.Tensor,
    positions: torch.Tensor,
    slot_mapping: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
) -> bool:
    dtype, head_dim = qkv.dtype, key_cache.shape[-1]
    return (
        dtype in _NAMES
        and key_cache.dtype == dtype
        and value_cache.dtype == dtype
        and (q_norm is None or (q_norm.dtype == dtype and q_norm.is_contiguous()))
        and (k_norm is None or (k_norm.dtype == dtype and k_norm.is_contiguous()))
        and cos_sin.dtype == torch.float32
        and positions.dtype == torch.int32
        and slot_mapping.dtype == torch.int32
        and head_dim % 16 == 0
        and head_dim <= _MAX_HEAD_DIM
        and key_cache.shape == value_cache.shape
        and positions.numel() == slot_mapping.numel() == qkv.shape[0]
        and qkv.is_contiguous()
        and cos_sin.is_contiguous()
        and positions.is_contiguous()
        and slot_mapping.is_contiguous()
        and key_cache.is_contiguous()
        and value_cache.is_contiguous()
    )


def gated_activation(x: torch.Tensor, activation: str) -> torch.Tensor:
    call, number = _gated_activation.get(x.dtype), _ACTIVATIONS.get(activation)
    if call is None or number is None or x.dim() != 2 or not x.is_contiguous() or x.shape[1] % 2:
        return torch_activation.gated_activation(x, activation)
    num_rows, width = x.shape
    out = torch.empty((num_rows, width // 2), dtype=x.dtype)
    call(x.data_ptr(), out.data_ptr(), num_rows, width // 2, number)
    return out


def check() -> None:
    """Every operation once against torch's. Raises AssertionError."""
    rows, heads, head_dim = 3, 4, 16
    size = heads * head_dim
    numbers = torch.arange(rows * size, dtype=torch.float32)
    angles = numbers[: rows * head_dim].view(rows, head_dim).sin()
    places = torch.arange(rows, dtype=torch.int32)
    for dtype in _NAMES:
        x, residual = (numbers.sin() * 3).view(rows, size).to(dtype), numbers.cos().view(rows, size).to(dtype)
        weight = (numbers[:size] / size + 0.5).to(dtype)
        _compare("rms_norm", rms_norm(x, weight, 1e-6), torch_norm.rms_norm(x, weight, 1e-6))
        sums = residual.clone(), residual.clone()
        _compare(
            "add_rms_norm", add_rms_norm(x, sums[0], weight, 1e-6), torch_norm.add_rms_norm(x, sums[1], weight, 1e-6)
        )
        _compare("the sum of add_rms_norm", *sums)
        for name in ("silu", "gelu", "gelu_new"):
            _compare(name, gated_activation(x, name), torch_activation.gated_activation(x, name))
        caches = torch.zeros(2, 2, 2, 1, 2, head_dim, dtype=dtype)
        norm = weight[:head_dim]
        rotated = [
            rope(x, norm, norm, 1e-6, angles, places, places, cache[0], cache[1])
            for rope, cache in zip((rope_and_cache, torch_rotary.rope_and_cache), caches, strict=True)
        ]
        _compare("rope_and_cache", *rotated)
        _compare("the cache of rope_and_cache", caches[0], caches[1])


def _compare(what: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    tolerance = 1e-5 if ours.dtype == torch.float32 else 2e-2
    if not torch.allclose(ours.float(), theirs.float(), rtol=tolerance, atol=tolerance):
        raise AssertionError(f"{what} in {ours.dtype}")
