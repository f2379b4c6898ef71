"""The native backend: operations in C++ for AVX2 and AVX512, under the names of kernels/__init__.py.

What an operation does not take (a type, a shape, a layout) it gives to torch, and what there is no
native one for is torch's. To be used once library.load() has returned; see dispatch.py.
"""

from .. import (
    add_rms_norm_fp8,
    append_tokens,
    apply_penalties,
    copy_block_pairs,
    copy_blocks,
    fp8_kind,
    gated_activation_fp8,
    linear,
    make_sampling_workspace,
    prepare_inputs,
    remember_tokens,
    rms_norm_fp8,
    sample_slots,
    write_words,
)
from .attention import paged_attention
from .elementwise import add_rms_norm, gated_activation, rms_norm, rope_and_cache
from .grammar import keep_allowed
from .linear_bfloat16 import linear_kinds, pack_linear
from .linear_int8 import int8_kinds
from .sampling import greedy, rows_are_finite, sample, token_logprobs

__all__ = [
    "add_rms_norm",
    "add_rms_norm_fp8",
    "append_tokens",
    "apply_penalties",
    "copy_block_pairs",
    "copy_blocks",
    "fp8_kind",
    "gated_activation",
    "gated_activation_fp8",
    "greedy",
    "int8_kinds",
    "keep_allowed",
    "linear",
    "linear_kinds",
    "make_sampling_workspace",
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
    "write_words",
]
