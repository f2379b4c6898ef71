"""The Triton backend: the operations on an NVIDIA GPU; cpu/ is their specification, and serves what has no kernel.

`launches(dims)` lists every variant that a model's steps will launch, so that all can be compiled beforehand.
"""

from __future__ import annotations

import torch
from triton import runtime

from ..cpu import *  # noqa: F403
from . import activation, fp8, logprobs, norm, penalties, sampling, writes
from .activation import gated_activation, gated_activation_fp8
from .attention import attends, paged_attention
from .attention import launches as attention_launches
from .inputs import append_tokens, prepare_inputs
from .inputs import launches as inputs_launches
from .launch import Dims, Launch, compile_all, load_all
from .linear_fp8 import fp8_kind
from .logprobs import token_logprobs
from .norm import add_rms_norm, add_rms_norm_fp8, rms_norm, rms_norm_fp8
from .penalties import remember_tokens
from .rope_and_cache import launches as rope_and_cache_launches
from .rope_and_cache import rope_and_cache
from .sampling import sample_slots
from .sampling_state import make_sampling_workspace
from .writes import copy_block_pairs, write_words

__all__ = [
    "Dims",
    "Launch",
    "add_rms_norm",
    "add_rms_norm_fp8",
    "append_tokens",
    "attends",
    "compile_ahead",
    "compile_all",
    "copy_block_pairs",
    "fp8_kind",
    "gated_activation",
    "gated_activation_fp8",
    "launches",
    "make_sampling_workspace",
    "paged_attention",
    "prepare_inputs",
    "remember_tokens",
    "rms_norm",
    "rms_norm_fp8",
    "rope_and_cache",
    "sample_slots",
    "token_logprobs",
    "write_words",
]

_LAUNCHES = (
    rope_and_cache_launches,
    attention_launches,
    inputs_launches,
    norm.launches,
    activation.launches,
    fp8.launches,
    penalties.launches,
    sampling.launches,
    logprobs.launches,
    writes.launches,
)
"""Of every module with kernels."""


def launches(dims: Dims) -> list[Launch]:
    """Every variant that steps of such a model launch."""
    return [launch for of_module in _LAUNCHES for launch in of_module(dims)]


def compile_ahead(dims: Dims, device: torch.device, num_threads: int) -> int:
    torch.cuda.set_device(device)
    # Made once, before each thread would make one of its own.
    _ = runtime.driver.active
    return len(load_all(launches(dims), num_threads, lambda: torch.cuda.set_device(device)))
