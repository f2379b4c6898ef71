"""The compile gate: every launch of typical models is compiled for sm_90, and its machine code looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

pytest.importorskip("triton")
from compile_gate import machine_code, sm_90

from quire.kernels import triton as backend
from quire.kernels.triton import attention
from quire.kernels.triton.launch import Dims

QWEN3_SMALL = Dims(
    dtype=torch.bfloat16,
    cache_dtype=torch.bfloat16,
    hidden_size=1024,
    intermediate_size=3072,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=151936,
    block_size=16,
    max_num_seqs=256,
    max_num_blocks=2560,
    has_qk_norm=True,
    activation="silu",
    windows=(None,),
)
LLAMA = QWEN3_SMALL._replace(
    hidden_size=4096, intermediate_size=14336, num_heads=32, vocab_size=128256, has_qk_norm=False
)
MODELS = {
    "qwen3 bf16": QWEN3_SMALL,
    "llama fp8": LLAMA._replace(cache_dtype=torch.float8_e4m3fn, is_fp8=True),
    "small heads fp16 window": LLAMA._replace(
        dtype=torch.float16, cache_dtype=torch.float16, num_kv_heads=4, num_heads=28, head_dim=64, windows=(None, 4096)
    ),
    "float32": QWEN3_SMALL._replace(dtype=torch.float32, cache_dtype=torch.float32),
    "wide heads": LLAMA._replace(num_heads=8, num_kv_heads=4, head_dim=256, hidden_size=2560),
}


@pytest.fixture(autouse=True)
def target() -> Iterator[None]:
    with sm_90():
        yield


@pytest.mark.parametrize("name", MODELS)
def test_every_launch_compiles_to_what_an_h100_runs_fast(name: str) -> None:
    launches = backend.launches(MODELS[name])
    compiled = machine_code(launches)
    print(*(code.line() for code in compiled), sep="\n")
    complaints = {
        code.name: found for code, launch in zip(compiled, launches, strict=True) if (found := code.complaints(launch))
    }
    assert not complaints


def test_splits_that_merge_themselves_compile_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_IS_MERGING", True)
    launches = attention.launches(MODELS["qwen3 bf16"])
    for code, launch in zip(machine_code(launches), launches, strict=True):
        print(code.line())
        assert not code.complaints(launch)
