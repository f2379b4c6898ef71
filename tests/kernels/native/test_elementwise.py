"""Native norms, rotary embedding and activations against torch's and against float64, for each instruction set."""

from __future__ import annotations

import pytest
import torch

from quire.kernels import cpu
from quire.kernels.cpu.native import elementwise

DTYPES = [torch.float32, torch.bfloat16]
SIZES = [1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 128, 1000, 1025, 3072]
HEADS = [(1, 1, 16), (4, 2, 64), (5, 1, 80), (3, 3, 128), (8, 2, 256), (1, 1, 512)]

pytestmark = pytest.mark.usefixtures("level")


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)
    with torch.inference_mode():
        yield


def assert_close(ours: torch.Tensor, truth: torch.Tensor, relative: float = 1e-6, absolute: float = 1e-30) -> None:
    """float32 within `relative` of a truth in float64, bfloat16 within one unit in the last place of it."""
    assert ours.dtype in DTYPES and ours.shape == truth.shape
    if ours.dtype == torch.bfloat16:
        truth, relative = truth.bfloat16(), 2**-7
    assert ((ours.double() - truth.double()).abs() <= relative * truth.double().abs() + absolute).all()


def rms(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    x = x.double()
    return x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt() * weight.double()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_rows", [1, 3, 70])
def test_rms_norm_is_its_formula_at_every_size(dtype, num_rows):
    for size in SIZES:
        x, weight = (torch.randn(num_rows, size) * 3).to(dtype), torch.randn(size).to(dtype)
        assert_close(elementwise.rms_norm(x, weight, 1e-5), rms(x, weight, 1e-5))
        assert_close(elementwise.rms_norm(x, weight, 1e-5), cpu.rms_norm(x, weight, 1e-5).double())


@pytest.mark.parametrize("dtype", DTYPES)
def test_add_rms_norm_norms_the_sum_as_it_is_kept(dtype):
    for size in SIZES:
        x, residual, weight = (torch.randn(shape).to(dtype) for shape in ((5, size), (5, size), (size,)))
        total = residual + x
        out = elementwise.add_rms_norm(x, residual, weight, 1e-6)
        assert torch.equal(residual, total)
        assert_close(out, rms(total, weight, 1e-6))


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_rows_are_each_what_one_row_is(dtype):
    x, weight = torch.randn(333, 1024).to(dtype), torch.rand(1024).to(dtype)
    pairs = torch.randn(333, 2048).to(dtype)
    rows = [elementwise.rms_norm(row[None], weight, 1e-6) for row in x]
    assert torch.equal(elementwise.rms_norm(x, weight, 1e-6), torch.cat(rows))
    rows = [elementwise.gated_activation(row[None], "silu") for row in pairs]
    assert torch.equal(elementwise.gated_activation(pairs, "silu"), torch.cat(rows))


def activated(x: torch.Tensor, name: str) -> torch.Tensor:
    """In float64, with tails that are no difference from 1, as those of torch's gelu are."""
    if name == "silu":
        return x * torch.sigmoid(x)
    if name == "gelu":
        return x * torch.special.erfc(-x / 2**0.5) / 2
    return x * torch.sigmoid(2 * (2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_pytorch_tanh", "gelu_new"])
def test_gated_activation_is_its_formula_at_every_size(dtype, name):
    for size in SIZES:
        x = (torch.randn(7, 2 * size) * 3).to(dtype)
        gate, up = x.double().chunk(2, dim=-1)
        # Far out, where the rounding of z itself counts in e^-z, there is nearly nothing left.
        assert_close(elementwise.gated_activation(x, name), activated(gate, name) * up, 3e-6, 1e-10)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_new"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_activation_of_any_gate_is_near_torchs(dtype, name):
    gate = torch.cat((torch.linspace(-200, 200, 40_001), torch.tensor([0.0, -0.0, 1e30, -1e30, float("nan")])))
    x = torch.cat((gate, torch.ones_like(gate))).to(dtype)[None]
    ours, torchs = elementwise.gated_activation(x, name), cpu.gated_activation(x, name)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(ours, torchs, rtol=tolerance, atol=tolerance, equal_nan=True)


def rope_arguments(dtype, num_tokens, heads, has_norm, block_size=16):
    """As kernels.rope_and_cache takes them, the caches within guards of NaN."""
    num_heads, num_kv_heads, head_dim = heads
    qkv = torch.randn(num_tokens, (num_heads + 2 * num_kv_heads) * head_dim).to(dtype)
    norms = (torch.rand(head_dim).to(dtype), torch.rand(head_dim).to(dtype)) if has_norm else (None, None)
    angles = torch.rand(500, head_dim // 2) * 6.3
    cos_sin = torch.cat((angles.cos(), angles.sin()), dim=1)
    positions = torch.randint(0, 500, (num_tokens,), dtype=torch.int32)
    num_blocks = -(-num_tokens // block_size) + 2
    slots = torch.randperm(num_blocks * block_size)[:num_tokens].int()
    caches = torch.full((2, num_blocks + 2, num_kv_heads, block_size, head_dim), float("nan"), dtype=dtype)
    return (qkv, *norms, 1e-6, cos_sin, positions, slots), caches


@pytest.mark.parametrize("has_norm", [False, True])
@pytest.mark.parametrize("heads", HEADS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("num_tokens", [1, 5, 150])
def test_rope_and_cache_writes_what_torchs_does_and_nothing_else(dtype, heads, has_norm, num_tokens):
    arguments, ours = rope_arguments(dtype, num_tokens, heads, has_norm)
    theirs = ours.clone()
    q = elementwise.rope_and_cache(*arguments, ours[0, 1:-1], ours[1, 1:-1])
    expected = cpu.rope_and_cache(*arguments, theirs[0, 1:-1], theirs[1, 1:-1])
    assert q.shape == expected.shape
    if not has_norm:
        assert torch.equal(q, expected)
        assert torch.equal(ours.nan_to_num(7.0), theirs.nan_to_num(7.0))
        return
    # A norm off by one unit moves what is turned by it by a unit of the larger of its two numbers.
    tolerance = 3e-6 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(q, expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance, equal_nan=True)
    assert torch.equal(ours[1].nan_to_num(7.0), theirs[1].nan_to_num(7.0))


def test_a_token_that_pads_is_written_nowhere():
    arguments, caches = rope_arguments(torch.float32, 5, (2, 1, 16), False)
    arguments[-1][3] = -1
    found = []
    for rope in (elementwise.rope_and_cache, cpu.rope_and_cache):
        written = caches.clone()
        rope(*arguments, written[0, 1:-1], written[1, 1:-1])
        found.append(written)
    torch.testing.assert_close(*found, rtol=3e-6, atol=3e-6, equal_nan=True)
    assert int((~found[0].isnan()).sum()) == 2 * 4 * 16


@pytest.mark.parametrize(("place", "value"), [(-2, -1), (-2, 500), (-1, -2), (-1, 48)])
def test_a_place_out_of_range_is_refused_before_anything_is_written(place, value):
    arguments, caches = rope_arguments(torch.float32, 5, (2, 1, 16), False)
    arguments[place][3] = value
    with pytest.raises(IndexError, match="out of range"):
        elementwise.rope_and_cache(*arguments, caches[0, 1:-1], caches[1, 1:-1])
    assert caches.isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_lies_around_an_output_stays(dtype):
    for size in SIZES:
        around = torch.full((5, size), float("nan"), dtype=dtype)
        x, weight, pairs = (torch.rand(shape).to(dtype) for shape in ((3, size), (size,), (3, 2 * size)))
        out, places = around[1:4], (x.data_ptr(), weight.data_ptr(), around[1:4].data_ptr())
        elementwise._rms_norm[dtype](*places, 3, size, 1e-6)
        assert is_framed(around)
        elementwise.add_rms_norm(x, out, weight, 1e-6)
        assert is_framed(around)
        out.fill_(float("nan"))
        elementwise._gated_activation[dtype](pairs.data_ptr(), out.data_ptr(), 3, size, 0)
        assert is_framed(around)


def is_framed(around: torch.Tensor) -> bool:
    """Whether the first and the last row are NaN, and nothing else."""
    is_nan = around.isnan()
    return bool(is_nan[0].all() and is_nan[-1].all() and not is_nan[1:-1].any())


def test_what_is_not_taken_goes_to_torch():
    x, weight = torch.randn(4, 6).double(), torch.rand(6).double()
    assert torch.equal(elementwise.rms_norm(x, weight, 1e-6), cpu.rms_norm(x, weight, 1e-6))
    assert torch.equal(elementwise.add_rms_norm(x, x.clone(), weight, 1e-6), cpu.rms_norm(2 * x, weight, 1e-6))
    x, weight = x.float().T, weight[:4].float()
    assert torch.equal(elementwise.rms_norm(x, weight, 1e-6), cpu.rms_norm(x, weight, 1e-6))
    assert torch.equal(elementwise.gated_activation(x, "silu"), cpu.gated_activation(x, "silu"))
    assert elementwise.rms_norm(torch.empty(0, 4), weight, 1e-6).shape == (0, 4)
    assert elementwise.gated_activation(torch.empty(0, 4), "silu").shape == (0, 2)
    with pytest.raises(ValueError, match="relu"):
        elementwise.gated_activation(torch.randn(1, 2), "relu")


@pytest.mark.parametrize(("dtype", "head_dim"), [(torch.float16, 16), (torch.float32, 24)])
def test_heads_that_are_not_taken_go_to_torch(dtype, head_dim):
    arguments, caches = rope_arguments(dtype, 3, (2, 1, head_dim), True)
    theirs = caches.clone()
    q = elementwise.rope_and_cache(*arguments, *caches)
    assert torch.equal(q, cpu.rope_and_cache(*arguments, *theirs))
    assert torch.equal(caches.nan_to_num(7.0), theirs.nan_to_num(7.0))
