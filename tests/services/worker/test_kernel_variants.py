"""The kernels that a model's steps launch are compiled while it loads, and all are there once that is asked for."""

from __future__ import annotations

import subprocess

import pytest
import torch
from checkpoints import make_checkpoint

from quire import kernels
from quire.services.worker.errors import DeviceError
from quire.services.worker.kernel_variants import KernelVariants
from quire.services.worker.model_runner import ModelRunner


@pytest.fixture
def runner(tmp_path) -> ModelRunner:
    return ModelRunner(make_checkpoint("mistral", tmp_path), "cpu", "float32", threads=1)


def test_they_are_compiled_once_for_the_usual_block_size_and_again_for_another(runner, monkeypatch):
    asked: list[kernels.Dims] = []
    monkeypatch.setattr(kernels, "compile_ahead", lambda dims, device, threads: asked.append(dims) or 1)
    variants = KernelVariants(runner.model, runner.placement, torch.bfloat16, is_fp8=True)
    variants.finish(16)
    assert [dims.block_size for dims in asked] == [16]
    assert asked[0].windows == (20,) and asked[0].cache_dtype == torch.bfloat16 and asked[0].is_fp8
    assert asked[0].head_dim == 24 and not asked[0].has_qk_norm
    variants.finish(32)
    assert [dims.block_size for dims in asked] == [16, 32]


def test_what_compiling_raises_is_told_to_who_waits(runner, monkeypatch):
    def fail(*_):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(kernels, "compile_ahead", fail)
    variants = KernelVariants(runner.model, runner.placement, torch.bfloat16, is_fp8=False)
    with pytest.raises(RuntimeError, match="no compiler"):
        variants.finish(16)


@pytest.mark.parametrize(
    "error", [RuntimeError("Failed to find C compiler. Please specify via CC"), subprocess.CalledProcessError(1, "gcc")]
)
def test_a_machine_without_a_c_compiler_is_told_what_to_install(runner, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(kernels, "compile_ahead", fail)
    variants = KernelVariants(runner.model, runner.placement, torch.bfloat16, is_fp8=False)
    with pytest.raises(DeviceError, match=r"install a C compiler and Python's headers \(gcc, python3-dev\)"):
        variants.finish(16)


def test_a_cpu_has_nothing_to_compile(runner):
    KernelVariants(runner.model, runner.placement, torch.float32, is_fp8=False).finish(16)
