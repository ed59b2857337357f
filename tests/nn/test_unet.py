"""The U-Net against the published ones with the same weights, and what our own options claim."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.cond import Cond
from safelight.nn.attention import FullAttentionSpec, NoAttention, TransformerSpec
from safelight.nn.blocks import ConvNextSpec, ResnetSpec, TransposedUp, UnshuffleDown
from safelight.nn.norm import GroupNormSpec, RMSNormSpec
from safelight.nn.pad import from_patches, to_patches
from safelight.nn.unet import UNet, UNetSpec
from safelight.spec import SpecError, build, describe
from tests.nn import peers

GATE = 1e-5


def small(**fields: object) -> UNetSpec:
    """A net of a few thousand parameters, its last layer not at zero so that its output says something."""
    norm = GroupNormSpec(groups=4)
    full = FullAttentionSpec(head_width=8, qk_norm=True)
    base = {
        "widths": (8, 16),
        "depth": 1,
        "skips": 2,
        "norm": norm,
        "attention": (full,),
        "middle": full,
        "time": 32,
        "zero": False,
    }
    return UNetSpec(**{**base, "block": ResnetSpec(zero=False), **fields})


def fresh(spec: UNetSpec, seed: int = 0) -> UNet:
    """The net with weights of a fixed seed."""
    torch.manual_seed(seed)
    return spec.build()


def gap(ours: Tensor, reference: Tensor) -> float:
    """The largest difference, of the reference's largest value."""
    return float((ours - reference).detach().abs().max() / reference.detach().abs().max())


def draw(*shape: int, seed: int = 1) -> Tensor:
    """Normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- the three of the literature ---------------------------------------------------------------------------------------------


class TutorialReference:
    """The first annotated-diffusion U-Net written out from its description, on our net's weights: plain functions, no classes shared."""

    def __init__(self, net: UNet, dim: int, mults: tuple[int, ...]) -> None:
        self.w = dict(net.named_parameters())
        self.dim, self.mults = dim, mults

    def _conv(self, x: Tensor, name: str, **how: int) -> Tensor:
        w = self.w[f"{name}.weight"]
        return F.conv2d(x, w[:, :, None, None] if w.ndim == 2 else w, self.w.get(f"{name}.bias"), **how)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        y = (x - x.mean((1, 2, 3), keepdim=True)) / (x.var((1, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
        return y * self.w[f"{name}.weight"][:, None, None] + self.w[f"{name}.bias"][:, None, None]

    def _block(self, x: Tensor, name: str, t: Tensor | None) -> Tensor:
        h = self._conv(x, f"{name}.block.depthwise", padding=3, groups=x.shape[1])
        if t is not None:
            h = h + F.linear(F.gelu(t), self.w[f"{name}.tell.weight"], self.w[f"{name}.tell.bias"])[:, :, None, None]
        h = F.gelu(self._conv(self._norm(h, f"{name}.block.norm1"), f"{name}.block.conv1", padding=1))
        h = self._conv(self._norm(h, f"{name}.block.norm2"), f"{name}.block.conv2", padding=1)
        return h + (self._conv(x, f"{name}.block.short") if f"{name}.block.short.weight" in self.w else x)

    def _linear_attention(self, x: Tensor, name: str) -> Tensor:
        b, _, h, w = x.shape
        n = self._norm(x, f"{name}.norm")
        q, k, v = (self._conv(n, f"{name}.{part}").reshape(b, 4, 32, h * w) for part in ("q", "k", "v"))
        context = torch.einsum("bhdn,bhen->bhde", k.softmax(dim=-1), v)
        y = torch.einsum("bhde,bhdn->bhen", context, q.softmax(dim=-2) * 32**-0.5).reshape(b, 128, h, w)
        return x + self._norm(self._conv(y, f"{name}.out"), f"{name}.norm_out")

    def _full_attention(self, x: Tensor, name: str) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = (t.reshape(b, 4, 32, h * w) for t in self._conv(self._norm(x, f"{name}.norm"), f"{name}.qkv").chunk(3, dim=1))
        a = (torch.einsum("bhdi,bhdj->bhij", q, k) * 32**-0.5).softmax(dim=-1)
        return x + self._conv(torch.einsum("bhij,bhdj->bhdi", a, v).reshape(b, 128, h, w), f"{name}.out")

    def __call__(self, x: Tensor, time: Tensor) -> Tensor:
        half = self.dim // 2
        angle = time[:, None] * torch.exp(torch.arange(half) * -(math.log(10000) / (half - 1)))
        t = torch.cat((angle.sin(), angle.cos()), dim=1)
        t = F.gelu(F.linear(t, self.w["time.0.weight"], self.w["time.0.bias"]))
        t = F.linear(t, self.w["time.2.weight"], self.w["time.2.bias"])
        x = self._conv(x, "stem", padding=3)
        stage, skips, levels = 0, [], len(self.mults)

        def name() -> str:
            nonlocal stage
            stage += 1
            return f"stages.{stage - 1}"

        for i in range(levels):
            x = self._block(x, name(), t)
            here = name()
            x = self._linear_attention(self._block(x, here, t), f"{here}.attention")
            skips.append(x)
            if i < levels - 1:
                x = self._conv(x, f"{name()}.resample", stride=2, padding=1)
        here = name()
        x = self._full_attention(self._block(x, here, t), f"{here}.attention")
        x = self._block(x, name(), t)
        for _ in range(levels - 1):
            x = self._block(torch.cat((x, skips.pop()), dim=1), name(), t)
            here = name()
            x = self._linear_attention(self._block(x, here, t), f"{here}.attention")
            here = name()
            x = F.conv_transpose2d(x, self.w[f"{here}.resample.weight"], self.w[f"{here}.resample.bias"], stride=2, padding=1)
        return self._conv(self._block(x, name(), None), "head")


def test_tutorial_is_the_first_annotated_unet() -> None:
    net = fresh(UNetSpec.tutorial(dim=28, mults=(1, 2, 4), channels=1))
    assert net.stem.weight.shape == (18, 1, 7, 7)  # dim // 3 * 2 channels
    assert net.time[0].weight.shape == (112, 28)
    x, t = draw(2, 1, 28, 28), torch.tensor([3.0, 150.0])
    assert gap(net(x, t).F, TutorialReference(net, 28, (1, 2, 4))(x, t)) < GATE


@pytest.mark.parametrize("seed", [0, 1])
def test_ddpm_pytorch_with_its_weights(seed: int) -> None:
    pytest.importorskip("ema_pytorch")
    torch.manual_seed(seed)
    try:
        peer = peers.ddpm_pytorch_unet(32, (1, 2, 4), channels=1)
    except ImportError as missing:
        pytest.skip(f"denoising-diffusion-pytorch is not installed: {missing}")
    net = peers.from_ddpm_pytorch(UNetSpec.ddpm_pytorch(32, (1, 2, 4), channels=1).build(), peer)
    x, t = draw(2, 1, 32, 32, seed=seed), torch.tensor([3.0, 987.0])
    with torch.no_grad():
        assert gap(net(x, t).F, peer(x, t)) < GATE


@pytest.mark.parametrize("scale_shift", [False, True])
def test_ddpm_with_diffusers_weights(scale_shift: bool) -> None:
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    attend = (False, True, True)
    peer = peers.diffusers_unet((32, 64, 96), attend, channels=3, scale_shift=scale_shift)
    net = peers.from_diffusers(UNetSpec.ddpm((32, 64, 96), attend, channels=3, scale_shift=scale_shift).build(), peer)
    x, t = draw(2, 3, 32, 16), torch.tensor([0.0, 999.0])
    with torch.no_grad():
        assert gap(net(x, t).F, peer(x, t).sample) < GATE


def test_gradients_equal_the_peers() -> None:
    """The folded and reordered forms inside change the backward pass too: it is compared where a peer is at hand."""
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    peer = peers.diffusers_unet((32, 64), (False, True), channels=1)
    net = peers.from_diffusers(UNetSpec.ddpm((32, 64), (False, True), channels=1).build(), peer)
    x, t, w = draw(2, 1, 16, 16), torch.tensor([5.0, 500.0]), draw(2, 1, 16, 16, seed=2)
    (net(x, t).F * w).sum().backward()
    (peer(x, t).sample * w).sum().backward()
    theirs = {name: p.grad for name, p in peer.named_parameters()}
    pairs = {
        "stem.weight": "conv_in.weight",
        "head.weight": "conv_out.weight",
        "time.0.weight": "time_embedding.linear_1.weight",
    }
    up = next(name for name in theirs if "upsamplers.0.conv.weight" in name)
    mine = {name: p.grad for name, p in net.named_parameters()}
    pairs[next(name for name in mine if "resample.conv.weight" in name)] = up
    for ours, peers_name in pairs.items():
        assert gap(mine[ours], theirs[peers_name]) < 5e-5, ours


def test_parameter_counts_of_the_published() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in UNetSpec.ddpm_pytorch(32, (1, 2, 4), channels=1).build().parameters()) == 2_607_681
        # DDPM's own CIFAR-10 net: 35.7 M (Ho et al. 2020, appendix B), one head of the full width.
        ddpm = UNetSpec.ddpm((128, 256, 256, 256), (False, True, False, False), head_width=256).build()
    assert round(sum(p.numel() for p in ddpm.parameters()) / 1e6, 1) == 35.7


# --- sizes and dimensions ----------------------------------------------------------------------------------------------------


SIZES = [(1, (29,), (32,)), (2, (27, 31), (28, 32)), (2, (1, 5), (4, 8)), (3, (3, 5, 6), (4, 8, 8))]


@pytest.mark.parametrize(("dims", "size", "full"), SIZES)
def test_any_size_is_the_padded_picture_cropped(dims: int, size: tuple[int, ...], full: tuple[int, ...]) -> None:
    net = fresh(small(dims=dims, widths=(8, 8, 16)))
    x = draw(2, 1, *size)
    index = torch.meshgrid(*(torch.arange(m).clamp(max=n - 1) for n, m in zip(size, full, strict=True)), indexing="ij")
    whole = net(x[(slice(None), slice(None), *index)], torch.tensor([1.0, 2.0])).F
    torch.testing.assert_close(net(x, torch.tensor([1.0, 2.0])).F, whole[(..., *(slice(n) for n in size))], rtol=0, atol=1e-6)


def test_one_dimension_is_two_with_one_column() -> None:
    """A 1-D net and the 2-D net with its kernels in the middle column agree on pictures one pixel wide, where nothing halves the width."""
    spec = {"widths": (8,), "attention": (NoAttention(),), "middle": NoAttention()}
    one, two = fresh(small(dims=1, **spec)), fresh(small(dims=2, **spec))
    with torch.no_grad():
        for p, q in zip(one.parameters(), two.parameters(), strict=True):
            if q.ndim == 4:
                q.zero_()[..., 1] = p
            else:
                q.copy_(p)
    x, t = draw(2, 1, 12), torch.tensor([1.0, 9.0])
    torch.testing.assert_close(two(x[..., None], t).F[..., 0], one(x, t).F, rtol=0, atol=1e-6)


def test_every_wiring_keeps_the_size_and_uses_every_weight() -> None:
    """Whatever the fields: each parameter gets a gradient, so no part is built and forgotten."""
    wirings = [
        {"skips": 0},
        {"skips": 1},
        {"skips": 2, "depth": 2},
        {"skips": 3, "depth": 2, "attend_each": False},
        {"skips": 2, "depth": 2, "widen_in_resampling": True, "tail": True, "tail_skip": True, "tail_timed": True},
        {"skips": 1, "narrow_early": True, "tail": True, "head_norm": False},
        {"skips": 1, "block": ConvNextSpec(), "down": UnshuffleDown(), "up": TransposedUp()},
        {
            "cond": 4,
            "context": 6,
            "image": 2,
            "attention": (TransformerSpec(head_width=8, norm=GroupNormSpec(groups=4)),),
            "patch": 2,
        },
    ]
    cond = Cond(tokens=draw(2, 3, 6), mask=torch.tensor([[True, True, False]] * 2), vector=draw(2, 4), image=draw(2, 2, 9, 7))
    for fields in wirings:
        spec = small(widths=(8, 16, 24), **fields)
        assert build(describe(spec)).spec == spec
        net = fresh(spec)
        for p in net.parameters():  # what starts at zero would hide what lies behind it
            if not p.any():
                nn.init.normal_(p, std=0.1)
        y = net(draw(2, 1, 9, 7), torch.tensor([1.0, 2.0]), cond).F
        assert y.shape == (2, 1, 9, 7)
        (y * draw(2, 1, 9, 7, seed=3)).sum().backward()
        idle = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
        assert not idle, (fields, idle)


def test_patches_come_back() -> None:
    for dims in (1, 2, 3):
        x = draw(2, 3, *(4,) * dims)
        torch.testing.assert_close(from_patches(to_patches(x, 2), 2), x, rtol=0, atol=0)
    torch.testing.assert_close(to_patches(draw(2, 3, 4, 6), 2), F.pixel_unshuffle(draw(2, 3, 4, 6), 2), rtol=0, atol=0)


# --- conditioning ------------------------------------------------------------------------------------------------------------


def conditional() -> UNet:
    transformer = TransformerSpec(head_width=8, norm=GroupNormSpec(groups=4))
    net = fresh(small(cond=4, context=6, image=2, attention=(transformer,), middle=transformer))
    for p in net.parameters():
        if not p.any():
            nn.init.normal_(p, std=0.2)
    return net


def test_each_condition_is_heard_by_its_own_picture_only() -> None:
    net = conditional()
    x, t = draw(1, 1, 8, 8).expand(2, -1, -1, -1), torch.tensor([1.0, 1.0])
    cond = Cond(
        tokens=draw(1, 3, 6).expand(2, -1, -1), vector=draw(1, 4).expand(2, -1), image=draw(1, 2, 8, 8).expand(2, -1, -1, -1)
    )
    base = net(x, t, cond).F
    for field in ("tokens", "vector", "image"):
        value = getattr(cond, field).clone()
        value[1] += 1
        y = net(x, t, cond._replace(**{field: value})).F
        torch.testing.assert_close(y[0], base[0], rtol=0, atol=1e-6)
        assert (y[1] - base[1]).abs().max() > 1e-3, field


def test_masked_tokens_are_not_read_and_an_empty_text_is_no_nan() -> None:
    net = conditional()
    x, t = draw(2, 1, 8, 8), torch.tensor([1.0, 2.0])
    tokens, rest = draw(2, 5, 6), {"vector": draw(2, 4), "image": draw(2, 2, 8, 8)}
    mask = torch.tensor([[True, True, False, False, False]] * 2)
    other = tokens.clone()
    other[:, 2:] = 100.0
    y = net(x, t, Cond(tokens=tokens, mask=mask, **rest)).F
    torch.testing.assert_close(net(x, t, Cond(tokens=other, mask=mask, **rest)).F, y, rtol=0, atol=0)
    torch.testing.assert_close(net(x, t, Cond(tokens=tokens[:, :2], **rest)).F, y, rtol=0, atol=1e-6)
    empty = net(x, t, Cond(tokens=tokens, mask=torch.zeros(2, 5, dtype=torch.bool), **rest)).F
    torch.testing.assert_close(empty, net(x, t, Cond(tokens=tokens, **rest)).F, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"cond": 4}, "cond.vector"),
        ({"context": 4, "middle": TransformerSpec(head_width=8, norm=GroupNormSpec(groups=4))}, "cond.tokens"),
        ({"image": 4}, "cond.image"),
    ],
)
def test_a_missing_condition_is_one_line(fields: dict[str, object], word: str) -> None:
    with pytest.raises(SpecError, match=word) as error:
        fresh(small(**fields))(draw(1, 1, 8, 8), torch.tensor([1.0]), Cond())
    assert "\n" not in str(error.value)


def test_learned_variance_is_the_second_half_of_the_head() -> None:
    net = fresh(small(learned_variance=True, channels=2))
    out = net(draw(2, 2, 8, 8), torch.tensor([1.0, 2.0]))
    plain = fresh(small(channels=2))
    halves = {}
    for name, half in (("F", slice(0, 2)), ("fraction", slice(2, 4))):
        state = {k: (v[half] if k.startswith("head") else v) for k, v in net.state_dict().items()}
        plain.load_state_dict(state)
        halves[name] = plain(draw(2, 2, 8, 8), torch.tensor([1.0, 2.0])).F
    torch.testing.assert_close(out.F, halves["F"], rtol=0, atol=1e-6)
    assert out.fraction is not None
    torch.testing.assert_close(2 * out.fraction - 1, halves["fraction"], rtol=0, atol=1e-6)


def test_zero_starts_as_the_paper_says() -> None:
    net = fresh(small(zero=True, block=ResnetSpec(zero=True)))
    assert not net(draw(2, 1, 8, 8), torch.tensor([1.0, 2.0])).F.any()
    block = net.stages[0].block
    assert block is not None
    x = draw(2, 8, 8, 8)
    torch.testing.assert_close(block(x, None), x, rtol=0, atol=0)


def test_dropout_is_for_training_only_and_keeps_the_mean() -> None:
    net, plain = fresh(small(block=ResnetSpec(dropout=0.5, zero=False))), fresh(small())
    plain.load_state_dict(net.state_dict())
    x, t = draw(1, 1, 8, 8), torch.tensor([1.0])
    assert torch.equal(net.eval()(x, t).F, plain(x, t).F)
    block = net.train().stages[0].block
    assert block is not None
    h = draw(1, 8, 8, 8)
    with torch.no_grad():
        mean = torch.stack([block(h, torch.zeros(1, 16)) for _ in range(400)]).mean(0)
        assert gap(mean, block.eval()(h, torch.zeros(1, 16))) < 0.1


# --- running -----------------------------------------------------------------------------------------------------------------


def test_checkpointing_gives_equal_gradients() -> None:
    net = conditional()
    args = (draw(2, 1, 8, 8), torch.tensor([1.0, 2.0]), Cond(tokens=draw(2, 3, 6), vector=draw(2, 4), image=draw(2, 2, 8, 8)))
    grads = []
    for net.checkpointing in (False, True):
        net.zero_grad()
        net(*args).F.square().sum().backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_bfloat16_autocast_stays_close() -> None:
    for spec in (UNetSpec.tutorial(dim=12), UNetSpec.ddpm_pytorch(8, (1, 2), 1), small()):
        net = fresh(spec)
        x, t = draw(2, 1, 16, 16), torch.tensor([1.0, 800.0])
        reference = net(x, t).F
        with torch.autocast("cpu", torch.bfloat16):
            y = net(x, t).F
        assert (y.float() - reference).norm() / reference.norm() < 0.02
        y.float().square().sum().backward()
        assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


def test_compiles_whole_and_once() -> None:
    """One graph, no break; other noise values and other pictures need no new one."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    for net in (conditional(), fresh(UNetSpec.ddpm_pytorch(8, (1, 2), 1))):
        torch._dynamo.reset()
        graphs.clear()
        whole = torch.compile(net, backend=backend, fullgraph=True)
        cond = Cond(tokens=draw(2, 3, 6), vector=draw(2, 4), image=draw(2, 2, 9, 7))
        for seed in (1, 2):
            args = (draw(2, 1, 9, 7, seed=seed), torch.tensor([1.0, 20.0 * seed]), cond)
            torch.testing.assert_close(whole(*args).F, net(*args).F, rtol=0, atol=2e-5)
        assert len(graphs) == 1


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"attention": ("full-attention",) * 3}, "attention names 3 resolutions, but widths has 2"),
        ({"skips": 5}, "skips is 5"),
        ({"stem_kernel": 4}, "stem_kernel must be odd"),
        ({"widen_in_resampling": True}, "skips of depth"),
        ({"norm": RMSNormSpec(), "attention": ("full-atention",)}, "did you mean 'full-attention'"),
        ({"tail_skip": True}, "tail_skip needs tail"),
        ({"context": 4}, "context is 4, but no attention reads it"),
    ],
)
def test_faulty_fields_are_one_line(fields: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError, match=says) as error:
        build({"family": "network", "kind": "unet", "widths": [8, 16], "depth": 1, "skips": 2, **fields})
    assert "\n" not in str(error.value)


def test_widths_that_do_not_fit_are_one_line() -> None:
    with pytest.raises(SpecError, match="4 groups do not divide 10 channels"):
        small(widths=(8, 10)).build()
    with pytest.raises(SpecError, match="head_width: 7 does not divide 16"):
        small(middle=FullAttentionSpec(head_width=7)).build()
