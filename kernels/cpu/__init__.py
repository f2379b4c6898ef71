"""The torch backend: every operation in plain torch, the specification of all others."""

from .activation import gated_activation
from .attention import paged_attention
from .blocks import copy_blocks
from .inputs import append_tokens, prepare_inputs
from .linear import int8_kinds, linear, linear_kinds, pack_linear
from .norm import add_rms_norm, rms_norm
from .penalties import apply_penalties
from .rotary import rope_and_cache
from .sampling import greedy, rows_are_finite, sample, token_logprobs

__all__ = [
    "add_rms_norm",
    "append_tokens",
    "apply_penalties",
    "copy_blocks",
    "gated_activation",
    "greedy",
    "int8_kinds",
    "linear",
    "linear_kinds",
    "pack_linear",
    "paged_attention",
    "prepare_inputs",
    "rms_norm",
    "rope_and_cache",
    "rows_are_finite",
    "sample",
    "token_logprobs",
]
