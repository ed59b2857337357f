"""The parts of the networks against their formulas in float64: embeddings, norms, attentions, blocks' resampling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.nn.attention import CrossAttention, FullAttention, LinearAttention
from safelight.nn.blocks import Nearest, Pointwise, PostNormResnetBlock, ResnetBlock, Unshuffle, conv
from safelight.nn.embed import Fourier, Sinusoid
from safelight.nn.norm import GroupNorm, RMSNorm

DOUBLE = {"rtol": 0.0, "atol": 1e-12}


def draw(*shape: int, seed: int = 1) -> Tensor:
    """Normal numbers of a seed, in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def channels_last(x: Tensor) -> Tensor:
    """The same picture in the layout the networks use."""
    return x.contiguous(memory_format=torch.channels_last)


# --- embeddings --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cos_first", [False, True])
@pytest.mark.parametrize("closed", [False, True])
@pytest.mark.parametrize("width", [8, 9])
def test_sinusoid_is_the_formula(width: int, closed: bool, cos_first: bool) -> None:
    got = Sinusoid(width, 10_000.0, closed, cos_first)(torch.tensor([0.0, 7.0, 63.5]))
    half = width // 2
    for row, s in zip(got, (0.0, 7.0, 63.5), strict=True):
        angles = [s * 10_000 ** (-i / (half - 1 if closed else half)) for i in range(half)]
        sin, cos = [math.sin(a) for a in angles], [math.cos(a) for a in angles]
        want = torch.tensor((cos + sin if cos_first else sin + cos) + [0.0] * (width % 2))
        torch.testing.assert_close(row, want, rtol=0, atol=1e-5)


def test_sinusoid_survives_half_precision_weights() -> None:
    noise = torch.tensor([999.0])
    assert torch.equal(Sinusoid(64).to(torch.bfloat16)(noise), Sinusoid(64)(noise))


def test_fourier_is_the_formula_and_kept_with_the_weights() -> None:
    torch.manual_seed(0)
    net = Fourier(4096, scale=3.0)
    f = net.state_dict()["f"]
    assert abs(f.std() - 3.0) < 0.2 and not net.f.requires_grad and Fourier(8, learned=True).f.requires_grad
    angle = 2 * math.pi * 0.3 * f
    torch.testing.assert_close(net(torch.tensor([0.3]))[0], torch.cat((angle.cos(), angle.sin())), rtol=0, atol=1e-4)


# --- norms -------------------------------------------------------------------------------------------------------------------


def rms_formula(x: Tensor, g: Tensor, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    y = x / (x.square().mean(1, keepdim=True) + RMSNorm.EPS).sqrt() * g[:, None, None]
    return y if scale is None or shift is None else y * (1 + scale[:, :, None, None]) + shift[:, :, None, None]


@pytest.mark.parametrize("rows", [None, 1, 3])
def test_rms_norm_and_its_own_backward(rows: int | None) -> None:
    norm = RMSNorm(6).double()
    nn.init.normal_(norm.g)
    x = channels_last(draw(3, 6, 4, 5)).requires_grad_()
    extra = () if rows is None else (draw(rows, 6, seed=2).requires_grad_(), draw(rows, 6, seed=3).requires_grad_())
    scale, shift = extra or (None, None)
    torch.testing.assert_close(norm(x, *extra), rms_formula(x, norm.g, scale, shift), **DOUBLE)
    assert torch.autograd.gradcheck(lambda x, g, *e: _with(norm, g)(x, *e), (x, norm.g.detach().requires_grad_(), *extra))


def _with(norm: RMSNorm, g: Tensor) -> RMSNorm:
    other = RMSNorm(len(g))
    del other.g
    other.g = g
    return other


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rms_norm_of_nothing_is_nothing_and_of_much_is_one(dtype: torch.dtype) -> None:
    """Also where 64 squares of 300 are more than the type can hold, and eps less."""
    norm, x = RMSNorm(64).to(dtype), torch.zeros(2, 64, 2, 2, dtype=dtype)
    with torch.no_grad():
        assert torch.equal(norm(x), x)
        torch.testing.assert_close(norm(x + 300), torch.ones_like(x), rtol=0, atol=0.01)


def test_group_norm_with_scale_and_shift() -> None:
    norm = GroupNorm(2, 6).double()
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x, scale, shift = draw(3, 6, 4, 5), draw(3, 6, seed=2), draw(3, 6, seed=3)
    groups = x.reshape(3, 2, -1)
    n = ((groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)
    want = (n * norm.weight[:, None, None] + norm.bias[:, None, None]) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    torch.testing.assert_close(norm(x, scale, shift), want, **DOUBLE)


# --- attention ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", [0, 3])
@pytest.mark.parametrize("space", [(7,), (4, 5), (2, 3, 2)])
def test_linear_attention_is_the_formula(space: tuple[int, ...], memory: int) -> None:
    """Shen et al. 2021 place by place, though inside no value is ever made."""
    torch.manual_seed(0)
    h, d, c = 2, 3, 4
    net = LinearAttention(c, h, d, nn.Identity(), nn.Identity(), memory).double()
    x = draw(2, c, *space)
    tokens = x.flatten(2).transpose(1, 2)
    q, k, v = (F.linear(tokens, m.weight).unflatten(2, (h, d)).transpose(1, 2) for m in (net.q, net.k, net.v))
    if net.memory is not None:
        mk, mv = (m.expand(2, -1, -1, -1) for m in net.memory)
        k, v = torch.cat((mk, k), dim=2), torch.cat((mv, v), dim=2)
    y = (q.softmax(-1) * d**-0.5) @ (k.softmax(2).transpose(2, 3) @ v)
    y = F.linear(y.transpose(1, 2).flatten(2), net.out.weight, net.out.bias)
    torch.testing.assert_close(net(x), x + y.transpose(1, 2).reshape(x.shape), **DOUBLE)


@pytest.mark.parametrize(("memory", "qk_norm"), [(0, False), (3, False), (0, True)])
def test_full_attention_is_the_formula(memory: int, qk_norm: bool) -> None:
    torch.manual_seed(0)
    h, d, c = 2, 3, 4
    net = FullAttention(c, h, d, nn.Identity(), True, memory, qk_norm).double()
    x = channels_last(draw(2, c, 4, 5))
    q, k, v = (
        F.linear(x.flatten(2).transpose(1, 2), net.qkv.weight, net.qkv.bias).unflatten(2, (3, h, d)).permute(2, 0, 3, 1, 4)
    )
    if qk_norm:
        gains = (net.attend.norm_q.g, net.attend.norm_k.g)
        for g in gains:
            nn.init.normal_(g)
        q, k = (t / (t.square().mean(-1, keepdim=True) + 1e-6).sqrt() * g for t, g in zip((q, k), gains, strict=True))
    if net.memory is not None:
        mk, mv = (m.expand(2, -1, -1, -1) for m in net.memory)
        k, v = torch.cat((mk, k), dim=2), torch.cat((mv, v), dim=2)
    y = (q @ k.transpose(2, 3) / math.sqrt(d)).softmax(-1) @ v
    y = F.linear(y.transpose(1, 2).flatten(2), net.out.weight, net.out.bias)
    torch.testing.assert_close(net(x), x + y.transpose(1, 2).reshape(x.shape), **DOUBLE)


def test_cross_attention_reads_by_the_formula() -> None:
    torch.manual_seed(0)
    net = CrossAttention(6, 2, 5).double()
    y, words = draw(2, 4, 6), draw(2, 3, 5, seed=2)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    q = net.q(y).unflatten(2, (2, 3)).transpose(1, 2)
    k, v = (t.unflatten(2, (2, 3)).transpose(1, 2) for t in net.kv(words).chunk(2, dim=2))
    score = (q @ k.transpose(2, 3) / math.sqrt(3)).masked_fill(~mask[:, None, None], -math.inf)
    want = net.out((score.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(net(y, net.read(words, mask)), want, **DOUBLE)


# --- resampling --------------------------------------------------------------------------------------------------------------

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_nearest_is_doubling_then_convolving(dims: int) -> None:
    torch.manual_seed(0)
    net = Nearest(dims, 3, 2).double()
    x = draw(2, 3, *(4, 5, 3)[:dims]).requires_grad_()
    want = CONV[dims](F.interpolate(x, scale_factor=2.0, mode="nearest"), net.conv.weight, net.conv.bias, padding=1)
    torch.testing.assert_close(net(x), want, **DOUBLE)
    w = torch.randn_like(want)
    for mine, plain in zip(
        torch.autograd.grad((net(x) * w).sum(), (x, *net.parameters())),
        torch.autograd.grad((want * w).sum(), (x, *net.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(mine, plain, **DOUBLE)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_unshuffle_is_moving_pixels_then_a_matrix(dims: int) -> None:
    torch.manual_seed(0)
    net = Unshuffle(dims, 3, 5).double()
    x = draw(2, 3, *(4, 6, 2)[:dims])
    cells = x
    for i in range(dims):  # (B, C, n, ...) -> (B, C, n / 2, ..., 2) a dimension at a time, the halves in order
        cells = cells.unfold(2 + i, 2, 2)
    cells = cells.movedim(1, 1 + dims).flatten(1 + dims)  # (B, *space / 2, C 2^dims)
    want = F.linear(cells, net.proj.weight.flatten(1), net.proj.bias).movedim(-1, 1)
    torch.testing.assert_close(net(x), want, **DOUBLE)


@pytest.mark.parametrize("b", [1, 2])
@pytest.mark.parametrize("space", [(7,), (4, 5), (2, 3, 2)])
def test_pointwise_is_a_matrix_at_each_place(space: tuple[int, ...], b: int) -> None:
    torch.manual_seed(0)
    net = conv(len(space), 3, 5, kernel=1).double()
    assert isinstance(net, Pointwise)
    x = draw(b, 3, *space)
    torch.testing.assert_close(
        net(x), torch.einsum("oc,bc...->bo...", net.weight, x) + net.bias.view(-1, *(1,) * len(space)), **DOUBLE
    )


# --- blocks ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale_shift", [False, True])
def test_both_resnet_blocks_are_their_formulas(scale_shift: bool) -> None:
    torch.manual_seed(0)
    x, told = draw(2, 4, 5, 5), draw(2, 12 if scale_shift else 6, seed=2)
    spread = told[:, :, None, None]

    pre = ResnetBlock(2, 4, 6, GroupNorm(2, 4), GroupNorm(2, 6), scale_shift=scale_shift).double()
    h = F.conv2d(F.silu(pre.norm1(x)), pre.conv1.weight, pre.conv1.bias, padding=1)
    h = pre.norm2(h) * (1 + spread[:, :6]) + spread[:, 6:] if scale_shift else pre.norm2(h + spread)
    h = F.conv2d(F.silu(h), pre.conv2.weight, pre.conv2.bias, padding=1)
    torch.testing.assert_close(pre(x, told), h + F.conv2d(x, pre.short.weight[:, :, None, None], pre.short.bias), **DOUBLE)

    post = PostNormResnetBlock(2, 4, 6, GroupNorm(2, 6), GroupNorm(2, 6), scale_shift=scale_shift).double()
    h = post.norm1(F.conv2d(x, post.conv1.weight, post.conv1.bias, padding=1))
    h = F.silu(h * (1 + spread[:, :6]) + spread[:, 6:]) if scale_shift else F.silu(h) + spread
    h = F.silu(post.norm2(F.conv2d(h, post.conv2.weight, post.conv2.bias, padding=1)))
    torch.testing.assert_close(post(x, told), h + F.conv2d(x, post.short.weight[:, :, None, None], post.short.bias), **DOUBLE)
