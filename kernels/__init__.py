"""The operations a model is made of: one function each, one signature, several backends.

Called by the worker's layers and sampler. Shapes: T tokens of a step, B rows, N sampling rows,
Hq query heads, Hkv key-value heads, D head_dim, V vocabulary. Caches are
[num_blocks, Hkv, block_size, D]. cpu/ is the specification; see dispatch.py for who computes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F

from .cpu.fp8 import QuantizedRows
from .cpu.linear import PackedWeight
from .cpu.linear_choice import LinearChoice, choose, choose_fp8, choose_quantized
from .cpu.linear_fp8 import Fp8PackedWeight
from .cpu.native.build import BuildError
from .cpu.weight_memory import empty_weight
from .dims import Dims
from .dispatch import backend_for, backend_name, backend_of, can_be_captured, use
from .ragged_batch import RaggedBatch
from .slot_state import ALWAYS, SUPPRESSED, SlotState, TokenCounts, num_mask_words
from .step_tensors import StepTensors

__all__ = [
    "ALWAYS",
    "SUPPRESSED",
    "BuildError",
    "Dims",
    "LinearChoice",
    "PackedWeight",
    "QuantizedRows",
    "RaggedBatch",
    "SlotState",
    "StepTensors",
    "TokenCounts",
    "add_rms_norm",
    "add_rms_norm_fp8",
    "append_tokens",
    "apply_penalties",
    "backend_name",
    "can_be_captured",
    "choose_linear",
    "compile_ahead",
    "copy_block_pairs",
    "copy_blocks",
    "empty_weight",
    "gated_activation",
    "gated_activation_fp8",
    "greedy",
    "keep_allowed",
    "linear",
    "make_sampling_workspace",
    "num_mask_words",
    "pack_linear",
    "paged_attention",
    "prepare_inputs",
    "remember_tokens",
    "rms_norm",
    "rms_norm_fp8",
    "rope_and_cache",
    "rows_are_finite",
    "sample",
    "sample_slots",
    "token_logprobs",
    "use",
    "weight_rows",
    "write_words",
]


def choose_linear(
    shapes: Collection[tuple[int, int]],
    device: torch.device,
    dtype: torch.dtype,
    wanted: str = "auto",
    quantization: str = "none",
) -> LinearChoice:
    """How a model's weights of `shapes` (out, in) are to be packed: auto | native | onednn | plain.

    quantization: none | int8 | fp8, of which the last leaves the head, and so `wanted`, to the others. auto may take a
    fraction of a second for a trial, among what is not quantised.
    Raises ValueError where what is wanted cannot be had.
    """
    backend = backend_for(device)
    if quantization == "int8":
        return choose_quantized(backend.int8_kinds(device), dtype, wanted)
    if quantization == "fp8":
        return choose_fp8(backend.fp8_kind(device), backend.linear_kinds(device, dtype), dtype, wanted)
    return choose(backend.linear_kinds(device, dtype), shapes, dtype, wanted)


def compile_ahead(dims: Dims, device: torch.device, num_threads: int) -> int:
    """Compile all variants that steps of such a model launch, or take them from the cache on disk; how many."""
    compile_all = getattr(backend_for(device), "compile_ahead", None)
    return 0 if compile_all is None else compile_all(dims, device, num_threads)


def pack_linear(weight: torch.Tensor) -> PackedWeight:
    """A weight [out, in] as `linear` likes it, without a trial. May take as much memory again."""
    return backend_of(weight).pack_linear(weight)


def linear(
    x: torch.Tensor | QuantizedRows,
    weight: torch.Tensor | PackedWeight,
    bias: torch.Tensor | None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """x [T, in] @ weight^T + bias [out], of a packed or plain weight. Returns [T, out] of out_dtype (None: x's).

    Summed in float32 at least. float32 of bfloat16 is rounded once, or twice with bfloat16 between: up to the weight.
    QuantizedRows are for weights packed to fp8.
    """
    if not isinstance(x, torch.Tensor):
        if not isinstance(weight, Fp8PackedWeight):
            raise TypeError(f"quantised rows and a weight that is not: {type(weight).__name__}")
        return weight.product_of_quantized(x if out_dtype is None else x._replace(dtype=out_dtype), bias)
    return backend_of(x).linear(x, weight, bias, out_dtype)


def weight_rows(weight: torch.Tensor | PackedWeight, ids: torch.Tensor) -> torch.Tensor:
    """Rows `ids` [T] of a plain weight [out, in], or of a packed one that has_rows. Returns [T, in]."""
    return F.embedding(ids, weight) if isinstance(weight, torch.Tensor) else weight.rows(ids)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x [..., H] / rms(x) * weight [H]; the mean is taken in float32. Returns a new tensor."""
    return backend_of(x).rms_norm(x, weight, epsilon)


def add_rms_norm(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """residual += x, in place; returns its rms_norm. All [T, H]."""
    return backend_of(x).add_rms_norm(x, residual, weight, epsilon)


def rms_norm_fp8(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> QuantizedRows:
    """rms_norm of x [T, H] as fp8 linears want it: each row on a scale of its own, whatever is beside it."""
    numbers, scales = backend_of(x).rms_norm_fp8(x, weight, epsilon)
    return QuantizedRows(numbers, scales, x.dtype)


def add_rms_norm_fp8(x: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, epsilon: float) -> QuantizedRows:
    """residual += x, in place and in its own type; returns its rms_norm quantised. All [T, H]."""
    numbers, scales = backend_of(x).add_rms_norm_fp8(x, residual, weight, epsilon)
    return QuantizedRows(numbers, scales, x.dtype)


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
    """Norm q and k per head (if weights [D] are given), rotate them, write k and v to the cache.

    qkv [T, (Hq + 2 Hkv) * D]; cos_sin float32 [max_positions, D], cosines then sines of D/2 angles;
    positions int32 [T]; slot_mapping int32 [T], block * block_size + offset of each token, -1 for one that pads.
    An fp8 cache holds keys and values divided by cache_scales (None: by 1), saturating.
    Returns q [T, Hq, D]; qkv may be overwritten.
    """
    given = (qkv, q_norm, k_norm, epsilon, cos_sin, positions, slot_mapping, key_cache, value_cache)
    if cache_scales is None:
        return backend_of(qkv).rope_and_cache(*given)
    return backend_of(qkv).rope_and_cache(*given, cache_scales)


def paged_attention(
    q: torch.Tensor,
    key_cache: torch.Tensor,
    value_cache: torch.Tensor,
    batch: RaggedBatch,
    scale: float,
    window: int | None,
    cache_scales: tuple[float, float] | None = None,
) -> torch.Tensor:
    """Causal attention of q [T, Hq, D] over each row's blocks. Returns [T, Hq, D].

    A token sees itself and what is before it, at most `window` tokens in all. What lies in the cache
    outside a row's tokens, even NaN, changes nothing. cache_scales: see rope_and_cache.
    """
    given = (q, key_cache, value_cache, batch, scale, window)
    if cache_scales is None:
        return backend_of(q).paged_attention(*given)
    return backend_of(q).paged_attention(*given, cache_scales)


def prepare_inputs(
    slots: torch.Tensor,
    num_computed: torch.Tensor,
    cu_q: torch.Tensor,
    token_ids: torch.Tensor,
    block_tables: torch.Tensor,
    block_size: int,
    out: StepTensors,
) -> None:
    """Put a step's inputs together from the slots' state, in place in `out`; nothing of it passes the host.

    Of B rows: slots int32 [B], negative for rows that pad the batch; num_computed int32 [B]; cu_q int32 [B + 1] of
    their scheduled tokens, below T of `out`. token_ids int32 [slots, ids] holds every scheduled token's id, sampled
    ones by append_tokens; block_tables int32 [slots, columns] every block. What is behind cu_q[B] is padding.
    """
    backend_of(slots).prepare_inputs(slots, num_computed, cu_q, token_ids, block_tables, block_size, out)


def append_tokens(token_ids: torch.Tensor, slots: torch.Tensor, places: torch.Tensor, sampled: torch.Tensor) -> None:
    """token_ids[slots, places] = sampled, in place: where a later prepare_inputs finds them.

    slots and places int32 [N], sampled int64 or int32 [N]; a negative slot is padding.
    """
    backend_of(token_ids).append_tokens(token_ids, slots, places, sampled)


def gated_activation(x: torch.Tensor, activation: str) -> torch.Tensor:
    """act(x[:, :I]) * x[:, I:] of x [T, 2 I]. activation: silu | gelu | gelu_pytorch_tanh | gelu_new."""
    return backend_of(x).gated_activation(x, activation)


def gated_activation_fp8(x: torch.Tensor, activation: str) -> QuantizedRows:
    """gated_activation of x [T, 2 I] as fp8 linears want it."""
    numbers, scales = backend_of(x).gated_activation_fp8(x, activation)
    return QuantizedRows(numbers, scales, x.dtype)


def copy_blocks(caches: torch.Tensor, pairs: list[tuple[int, int]]) -> None:
    """Block `to` becomes block `from`, one pair after the other. caches [layers, num_blocks, ...], in place."""
    backend_of(caches).copy_blocks(caches, pairs)


def copy_block_pairs(caches: torch.Tensor, pairs: torch.Tensor) -> None:
    """The same for pairs int32 [P, 2] (from block, to block) on the device. No block is both copied and copied to."""
    backend_of(caches).copy_block_pairs(caches, pairs)


def write_words(target: torch.Tensor, packed: torch.Tensor, segments: torch.Tensor) -> None:
    """Put words of packed int32 [P] where they belong in target int32 [W], in place.

    segments int32 [S, 3]: the first word's place in target, its place in packed, how many words follow one another.
    No two write the same word.
    """
    backend_of(target).write_words(target, packed, segments)


def rows_are_finite(logits: torch.Tensor) -> torch.Tensor:
    """Whether a row [V] of logits [N, V] holds no NaN and no infinity. bool [N]."""
    return backend_of(logits).rows_are_finite(logits)


def keep_allowed(logits: torch.Tensor, rows: torch.Tensor, bits: torch.Tensor) -> None:
    """Minus infinity for what rows may not sample, in place on float32 logits [N, V].

    rows int64 [R], ascending and distinct; bits int32 [R, ceil(V / 32)]: token t may be sampled when bit t % 32 of
    word t // 32 is 1.
    """
    backend_of(logits).keep_allowed(logits, rows, bits)


def apply_penalties(
    logits: torch.Tensor,
    token_ids: torch.Tensor,
    is_token: torch.Tensor,
    is_output: torch.Tensor,
    repetition: torch.Tensor,
    frequency: torch.Tensor,
    presence: torch.Tensor,
) -> None:
    """Penalise tokens already there, in place on float32 logits [N, V].

    token_ids int64 [N, L] with any id where not is_token [N, L]; repetition [N] divides positive logits and
    multiplies negative ones of all tokens; frequency and presence [N] are taken off for outputs, the first
    for each occurrence.
    """
    backend_of(logits).apply_penalties(logits, token_ids, is_token, is_output, repetition, frequency, presence)


def greedy(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest token of each row of [N, V]; the lowest id among equals. int64 [N]."""
    return backend_of(logits).greedy(logits)


def sample(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    min_p: torch.Tensor,
    uniforms: torch.Tensor,
) -> torch.Tensor:
    """Draw one token a row by inverse CDF: int64 [N] from float32 logits [N, V], which are overwritten.

    In this order: logits / temperature [N] (> 0); tokens below min_p [N] of the likeliest go; the top_k [N]
    (0: all) likeliest stay; of these the smallest set whose share reaches top_p [N] (1: all).
    uniforms float64 [N] in [0, 1). A row's draw depends on nothing but the row.
    """
    return backend_of(logits).sample(logits, temperature, top_k, top_p, min_p, uniforms)


def make_sampling_workspace(max_rows: int, vocab_size: int, device: torch.device) -> Any:
    """What sample_slots works in; a backend's own."""
    return backend_of(torch.empty(0, device=device)).make_sampling_workspace(max_rows, vocab_size, device)


def remember_tokens(counts: TokenCounts, slot: int, token_ids: torch.Tensor, num_prompt: int) -> None:
    """A slot is taken by a row that has token_ids int32 [L], of which the first num_prompt are its prompt."""
    backend_of(token_ids).remember_tokens(counts, slot, token_ids, num_prompt)


def sample_slots(
    logits: torch.Tensor,
    slots: torch.Tensor,
    grammar_rows: torch.Tensor,
    grammar: torch.Tensor,
    state: SlotState,
    workspace: Any,
    token_ids: torch.Tensor,
    is_ok: torch.Tensor,
) -> None:
    """One token for each row of logits [N, V], which stay as they are, into token_ids int32 [N].

    slots int32 [N], distinct, -1 for a row that only fills up a graph. grammar_rows int32 [N]: the row of the
    packed bits grammar int32 [G, ceil(V / 32)] that says what is allowed, -1 for all. is_ok bool [N]: False where the
    logits hold a NaN or an infinity, or nothing may be drawn; there the token is 0 and the slot is left as it was.

    Edits, grammar, penalties, temperature, cuts, then the draw (Gumbel-max, by the slot's seed and output position),
    which is counted in the slot; nothing of it passes the host.
    """
    given = (logits, slots, grammar_rows, grammar, state, workspace, token_ids, is_ok)
    backend_of(logits).sample_slots(*given)


def token_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of token_ids int64 [N] under float32 logits [N, V]: logprob float32 [N], rank int64 [N] (1 is the likeliest),

    and the num_top likeliest: ids int64 [N, num_top], logprobs float32 [N, num_top].
    """
    return backend_of(logits).token_logprobs(logits, token_ids, num_top)
