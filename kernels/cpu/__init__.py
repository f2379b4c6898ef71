"""The torch backend: every operation in plain torch, the specification of all others."""

from .activation import gated_activation, gated_activation_fp8
from .attention import paged_attention
from .blocks import copy_blocks
from .grammar import keep_allowed
from .inputs import append_tokens, prepare_inputs
from .linear import int8_kinds, linear, linear_kinds, pack_linear
from .linear_fp8 import fp8_kind
from .norm import add_rms_norm, add_rms_norm_fp8, rms_norm, rms_norm_fp8
from .penalties import apply_penalties
from .rotary import rope_and_cache
from .sampling import greedy, rows_are_finite, sample, token_logprobs
from .slot_sampling import make_sampling_workspace, remember_tokens, sample_slots
from .writes import copy_block_pairs, write_words

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
