"""Norms and activations against their formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from quire import kernels


def test_rms_norm_is_its_formula():
    x, weight = torch.randn(5, 16), torch.rand(16)
    expected = x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight
    torch.testing.assert_close(kernels.rms_norm(x, weight, 1e-5), expected)


def test_rms_norm_takes_the_mean_in_float32():
    x = torch.full((1, 4096), 300.0, dtype=torch.bfloat16)
    out = kernels.rms_norm(x, torch.ones(4096, dtype=torch.bfloat16), 1e-5)
    torch.testing.assert_close(out, torch.ones_like(out))


def test_add_rms_norm_adds_to_the_residual_in_place():
    x, residual, weight = torch.randn(3, 8), torch.randn(3, 8), torch.rand(8)
    total = x + residual
    out = kernels.add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(residual, total)
    torch.testing.assert_close(out, kernels.rms_norm(total, weight, 1e-6))


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("silu", F.silu),
        ("gelu", F.gelu),
        ("gelu_pytorch_tanh", lambda x: F.gelu(x, approximate="tanh")),
        ("gelu_new", lambda x: F.gelu(x, approximate="tanh")),
    ],
)
def test_gated_activation_gates_the_second_half(name, function):
    x = torch.randn(4, 12)
    torch.testing.assert_close(kernels.gated_activation(x.clone(), name), function(x[:, :6]) * x[:, 6:])


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="relu"):
        kernels.gated_activation(torch.randn(1, 2), "relu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("num_rows", [1, 7, 64])
def test_a_packed_weight_multiplies_as_a_plain_one(dtype, has_bias, num_rows):
    torch.manual_seed(0)
    x, weight = torch.randn(num_rows, 96).to(dtype), torch.randn(40, 96).to(dtype)
    bias = torch.randn(40).to(dtype) if has_bias else None
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    with torch.inference_mode():
        for held in (kernels.pack_linear(weight), weight):
            out = kernels.linear(x, held, bias)
            assert out.dtype == dtype
            assert (out.double() - expected).norm() / expected.norm() < tolerance
