"""Gated activations, plain and quantised, against the specification in float32, within guards."""

from __future__ import annotations

import pytest
import torch
from guards import relative_error

from quire.kernels import cpu

TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}
ACTIVATIONS = ("silu", "gelu", "gelu_pytorch_tanh", "gelu_new")


def make(rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    return (torch.randn(rows, 2 * width, generator=torch.Generator().manual_seed(width)) * 4).to(dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("rows", "width", "dtype"),
    [(3, 1000, torch.bfloat16), (1, 1, torch.float32), (2, 2100, torch.float32), (5, 64, torch.float16)],
    ids=str,
)
def test_gate_and_up_are_combined(rows, width, dtype, activation, backend, guards) -> None:
    x = make(rows, width, dtype)
    expected = cpu.gated_activation(x.float(), activation)
    # The specification rounds twice.
    assert relative_error(backend.gated_activation(guards.put(x), activation), expected) < TOLERANCES[dtype]


def test_rows_may_lie_further_apart_than_they_are_wide(backend, guards) -> None:
    x = make(4, 70, torch.float32)
    wide = guards.empty(4, 150)
    wide[:, 5:145] = x.to(wide.device)
    out = backend.gated_activation(wide[:, 5:145], "silu")
    assert relative_error(out, cpu.gated_activation(x, "silu")) < 1e-6


def test_large_gates_and_nan_stay_what_they_are(backend, guards) -> None:
    x = make(3, 6, torch.float32)
    x[0, :6] = torch.tensor([1e4, -1e4, 1e30, -1e30, 90.0, -90.0])
    x[2, 3] = torch.nan
    for activation in ("silu", "gelu", "gelu_new"):
        out = backend.gated_activation(guards.put(x), activation).cpu()
        expected = cpu.gated_activation(x, activation)
        assert torch.equal(out.isnan(), expected.isnan()) and out[2, 3].isnan()
        torch.testing.assert_close(out[0], expected[0])


def test_no_rows_are_no_launch_and_an_unknown_name_is_an_error(backend, guards) -> None:
    assert backend.gated_activation(guards.put(torch.zeros(0, 12)), "silu").shape == (0, 6)
    with pytest.raises(ValueError, match="swish"):
        backend.gated_activation(guards.put(torch.zeros(1, 12)), "swish")


@pytest.mark.parametrize("width", [100, 1024, 17000])
def test_the_quantised_result_is_the_result_quantised(width, mode, guards) -> None:
    if mode == "ref":
        pytest.skip("the specification quantises on its own")
    from quire.kernels.triton.activation import gated_activation_fp8

    x = make(2, width, torch.bfloat16)
    exact = cpu.gated_activation(x.float(), "silu")
    numbers, scales = gated_activation_fp8(guards.put(x), "silu")
    torch.testing.assert_close(scales.cpu(), exact.abs().amax(-1) / 448, rtol=1e-5, atol=0)
    assert relative_error(numbers.cpu().float() * scales.cpu()[:, None], exact) < 3e-2
