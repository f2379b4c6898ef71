"""RMSNorm, with the residual and quantised, against the specification in float32, within guards."""

from __future__ import annotations

import pytest
import torch
from guards import Guards, relative_error

from quire.kernels import cpu

TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 5e-3, torch.float16: 1e-3}
EPSILON = 1e-5


def make(rows: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows * 7 + width)
    x, residual, weight = (torch.randn(*shape, generator=generator) for shape in ((rows, width),) * 2 + ((width,),))
    return (x * 3).to(dtype), residual.to(dtype), weight.to(dtype)


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize(("rows", "width"), [(3, 1000), (1, 1024), (9, 96), (2, 1), (2, 8200)])
def test_rows_are_normed(rows, width, dtype, backend, guards) -> None:
    x, residual, weight = make(rows, width, dtype)
    expected = cpu.rms_norm(x.float(), weight.float(), EPSILON)
    assert relative_error(backend.rms_norm(guards.put(x), guards.put(weight), EPSILON), expected) < TOLERANCES[dtype]
    ours, total = guards.put(residual), residual + x
    out = backend.add_rms_norm(guards.put(x), ours, guards.put(weight), EPSILON)
    assert torch.equal(ours.cpu(), total)
    expected = cpu.rms_norm(total.float(), weight.float(), EPSILON)
    assert relative_error(out, expected) < TOLERANCES[dtype]


def test_rows_may_lie_further_apart_than_they_are_wide(backend, guards) -> None:
    x, residual, weight = make(5, 80, torch.float32)
    wide, wide_residual = guards.empty(5, 99), guards.empty(5, 117)
    wide[:, 3:83], wide_residual[:, :80] = x.to(wide.device), residual.to(wide.device)
    out = backend.add_rms_norm(wide[:, 3:83], wide_residual[:, :80], guards.put(weight), EPSILON)
    assert relative_error(out, cpu.rms_norm(x + residual, weight, EPSILON)) < 1e-6
    assert wide_residual[:, 80:].isnan().all() and wide[:, 83:].isnan().all()


def test_any_number_of_dimensions_and_no_rows_at_all(backend, guards) -> None:
    x, _, weight = make(6, 32, torch.float32)
    out = backend.rms_norm(guards.put(x).view(2, 3, 32), guards.put(weight), EPSILON)
    assert relative_error(out.view(6, 32), cpu.rms_norm(x, weight, EPSILON)) < 1e-6
    assert backend.rms_norm(guards.put(x[:0]), guards.put(weight), EPSILON).shape == (0, 32)


def test_a_row_with_a_nan_or_an_infinity_stays_alone(backend, guards) -> None:
    x, _, weight = make(9, 40, torch.float32)
    x[2, 7], x[5, 39] = torch.nan, torch.inf
    out = backend.rms_norm(guards.put(x), guards.put(weight), EPSILON).cpu()
    whole = torch.arange(9)[(torch.arange(9) != 2) & (torch.arange(9) != 5)]
    assert relative_error(out[whole], cpu.rms_norm(x[whole], weight, EPSILON)) < 1e-6
    assert out[2].isnan().all() and out[5, 39].isnan()


@pytest.mark.parametrize(("rows", "width"), [(3, 1000), (9, 96), (1, 8200)])
def test_the_quantised_result_is_the_result_quantised(rows, width, mode, guards) -> None:
    if mode == "ref":
        pytest.skip("the specification quantises on its own")
    from quire.kernels.triton.norm import add_rms_norm_fp8, rms_norm_fp8

    x, residual, weight = make(rows, width, torch.bfloat16)
    x[0, 0] = 0.0
    given = guards.put(x), guards.put(weight)
    assert_quantized(*rms_norm_fp8(*given, EPSILON), cpu.rms_norm(x.float(), weight.float(), EPSILON))
    ours = guards.put(residual)
    quantized = add_rms_norm_fp8(given[0], ours, given[1], EPSILON)
    assert torch.equal(ours.cpu(), residual + x)
    assert_quantized(*quantized, cpu.rms_norm(ours.cpu().float(), weight.float(), EPSILON))


def assert_quantized(numbers: torch.Tensor, scales: torch.Tensor, exact: torch.Tensor) -> None:
    """Scales to float32's digits, and each number to half a step of e4m3: 1/16 of it, or of the least normal one."""
    numbers, scales = numbers.cpu().float(), scales.cpu()
    torch.testing.assert_close(scales, exact.abs().amax(-1) / 448, rtol=1e-5, atol=0)
    steps = torch.maximum((exact / scales[:, None]).abs() / 16, torch.tensor(2.0**-10))
    assert ((numbers - exact / scales[:, None]).abs() <= steps * 1.001).all()


def test_a_row_of_zeros_has_a_scale(mode, guards) -> None:
    if mode == "ref":
        pytest.skip("the specification quantises on its own")
    from quire.kernels.triton.norm import rms_norm_fp8

    numbers, scales = rms_norm_fp8(guards.put(torch.zeros(2, 24)), guards.put(torch.ones(24)), EPSILON)
    assert numbers.cpu().float().eq(0).all() and scales.cpu().eq(1).all()


def test_guards_see_what_is_written_beside_a_row() -> None:
    """The net itself: a write behind a tensor's end is found."""
    made = Guards("cpu")
    row = made.empty(8)
    torch.as_strided(row, (9,), (1,), row.storage_offset())[8] = 1.0
    with pytest.raises(AssertionError, match="beside"):
        made.check()
