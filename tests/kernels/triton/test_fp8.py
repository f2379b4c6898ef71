"""Linear layers on 8-bit floats: the specification against plain products, the kernels against it."""

from __future__ import annotations

import pytest
import torch
from guards import relative_error

from quire.kernels.cpu import fp8


@pytest.fixture
def module(mode):
    if mode == "ref":
        return fp8
    from quire.kernels.triton import fp8 as ours

    return ours


def make(rows: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows + width)
    return (torch.randn(rows, width, generator=generator) * torch.logspace(-3, 3, rows)[:, None]).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("rows", "width"), [(4, 100), (1, 1024), (3, 8200), (2, 1)])
def test_rows_are_quantised_each_on_its_own_scale(rows, width, dtype, module, guards) -> None:
    x = make(rows, width, dtype)
    numbers, scales = (tensor.cpu() for tensor in module.quantize_rows(guards.put(x)))
    expected, expected_scales = fp8.quantize_rows(x)
    torch.testing.assert_close(scales, expected_scales, rtol=1e-6, atol=0)
    # A last digit of the quotient may fall on the other side of a middle.
    is_other = numbers.view(torch.uint8) != expected.view(torch.uint8)
    assert is_other.float().mean() < 1e-3
    assert numbers.float().abs().amax(-1).eq(448).all()


def test_zeros_and_what_is_not_finite(module, guards) -> None:
    x = torch.zeros(4, 40)
    x[1, 3], x[2, 5], x[2, 6] = torch.nan, torch.inf, 1.0
    x[3] = 5.0
    numbers, scales = (tensor.cpu() for tensor in module.quantize_rows(guards.put(x)))
    values = numbers.float() * scales[:, None]
    assert values[0].eq(0).all() and not values[1].isfinite().all() and not values[2].isfinite().all()
    torch.testing.assert_close(values[3], x[3])


def test_rows_may_lie_further_apart_than_they_are_wide(module, guards) -> None:
    x = make(3, 48, torch.float32)
    wide = guards.empty(3, 99)
    wide[:, 1:49] = x.to(wide.device)
    numbers, _ = module.quantize_rows(wide[:, 1:49])
    assert torch.equal(numbers.cpu().float(), fp8.quantize_rows(x)[0].float())
    assert module.quantize_rows(guards.put(x[:0]))[0].shape == (0, 48)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("rows", "inner", "outer"), [(3, 64, 48), (1, 100, 7), (5, 512, 16)])
def test_a_linear_layer_is_near_the_product_and_nearer_to_its_specification(
    rows, inner, outer, dtype, module, guards
) -> None:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, inner, generator=generator).to(dtype)
    weight = (torch.randn(outer, inner, generator=generator) * torch.logspace(-1, 1, outer)[:, None]).to(dtype)
    bias = torch.randn(outer, generator=generator).to(dtype)
    packed = module.pack_fp8(guards.put(weight))
    assert packed.weight.dtype == fp8.E4M3 and packed.scales.shape == (outer,)
    for added in (None, bias):
        on_device = None if added is None else guards.put(added)
        out = module.linear_fp8(guards.put(x), packed, on_device)
        assert out.dtype == dtype and out.shape == (rows, outer)
        plain = torch.nn.functional.linear(x.float(), weight.float(), None if added is None else added.float())
        assert relative_error(out, plain) < 0.1
        specified = fp8.linear_fp8(x, fp8.pack_fp8(weight), added)
        assert relative_error(out, specified) < (1e-5 if dtype == torch.float32 and out.device.type == "cpu" else 8e-3)


def test_float16_sums_do_not_overflow(module, guards) -> None:
    x = torch.full((1, 4096), 0.5, dtype=torch.float16)
    weight = torch.full((16, 4096), 0.5, dtype=torch.float16)
    out = module.linear_fp8(guards.put(x), module.pack_fp8(guards.put(weight)), None)
    torch.testing.assert_close(out.cpu(), torch.full((1, 16), 1024.0, dtype=torch.float16), rtol=4e-3, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_the_fused_product_takes_the_scales_as_they_come(dtype, mode, guards, monkeypatch) -> None:
    """torch's fused product runs on a CPU too: what a GPU will be called with is tried here."""
    if mode == "ref":
        pytest.skip("the specification calls no fused product")
    from quire.kernels.triton import fp8 as ours

    monkeypatch.setattr(ours, "has_fp8", lambda device: True)
    x, weight = make(3, 64, dtype), make(48, 64, dtype)
    packed = ours.pack_fp8(guards.put(weight))
    for bias in (None, torch.ones(48, dtype=dtype)):
        out = ours.linear_fp8(guards.put(x), packed, None if bias is None else guards.put(bias))
        expected = fp8.linear_fp8(x, fp8.pack_fp8(weight), bias)
        assert out.dtype == dtype and relative_error(out, expected.float()) < 6e-3
    assert ours.linear_fp8(guards.put(x[:0]), packed, None).shape == (0, 48)


def test_a_packed_weight_takes_rows_as_they_are_or_quantised_already(mode, guards, monkeypatch) -> None:
    from quire.kernels.cpu import linear_fp8

    kind = linear_fp8.fp8_kind(torch.device("cpu")).pack
    if mode != "ref":
        from quire.kernels.triton import fp8 as ours
        from quire.kernels.triton import linear_fp8 as ours_packed

        without = ours_packed.fp8_kind(torch.device("cpu"))
        assert without.pack is kind and not without.has_fused, "a device without such products packs plainly"
        monkeypatch.setattr(ours, "has_fp8", lambda device: True)
        kind = ours_packed.fp8_kind(torch.device("cpu")).pack
    x, weight, bias = make(3, 64, torch.bfloat16), make(48, 64, torch.bfloat16), torch.ones(48, dtype=torch.bfloat16)
    packed = kind(guards.put(weight))
    assert packed.nbytes == 48 * 64 + 48 * 4
    out = packed.product(guards.put(x), guards.put(bias))
    rows = fp8.QuantizedRows(*(guards.put(tensor) for tensor in fp8.quantize_rows(x)), torch.bfloat16)
    assert relative_error(packed.product_of_quantized(rows, guards.put(bias)), out.float()) < 6e-3
    assert relative_error(out, fp8.linear_fp8(x, fp8.pack_fp8(weight), bias).float()) < 6e-3
    assert packed.product(guards.put(x), None, torch.float32).dtype == torch.float32
