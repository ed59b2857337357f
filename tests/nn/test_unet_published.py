"""What published U-Nets do beyond a forward pass: controls from outside, binding to a run, blocks that change the resolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.cond import Cond
from safelight.interop.keys import to_ours
from safelight.interop.maps import unet
from safelight.nn.attention import JoinedSpec, NoAttention, TransformerSpec
from safelight.nn.blocks import BlockDown, BlockUp, ConvDown, ConvNextSpec, ResnetSpec
from safelight.nn.norm import GroupNormSpec
from safelight.nn.unet import Trunk, UNet, UNetSpec
from safelight.spec import SpecError
from tests.peers import difference, diffusers, stirred

SD: dict[str, Any] = {
    "block_out_channels": [16, 32, 48],
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 12,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "layers_per_block": 1,
}
XL = SD | {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "use_linear_projection": True,
}
JOINED = UNetSpec(
    channels=3, context=24, context_map=32, pool_heads=4, cond=1, numbers=1, numbers_width=16, widths=(16, 32), depth=(1, 2), skips=3,
    block=ResnetSpec(zero=False, gelu=True, inner_gelu=True, divide=2**0.5), norm=GroupNormSpec(groups=8),
    attention=(NoAttention(), JoinedSpec(head_width=8, words=GroupNormSpec())), middle=JoinedSpec(head_width=8, itself=False),
    down=BlockDown(), up=BlockUp(), time=32, zero=False,
)  # fmt: skip


def draw(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def pair(config: dict[str, Any]) -> tuple[UNet, nn.Module]:
    """Our network and diffusers', with the same random weights."""
    peer = stirred(diffusers().UNet2DConditionModel(**config))
    spec = unet.spec(config)
    net = spec.build().eval()
    net.load_state_dict(
        to_ours(unet.keys(spec), peer.state_dict().__getitem__, {k: v.shape for k, v in net.state_dict().items()})
    )
    return net, peer


# --- controls ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SD, XL], ids=["sd", "sdxl"])
@torch.no_grad()
def test_controls_are_added_where_diffusers_adds_them(config: dict[str, Any]) -> None:
    """ControlNet's to every skip and the middle's output; an adapter's once a resolution (and, where there is one more, to the middle)."""
    net, peer = pair(config)
    x, noise, tokens = draw(2, 4, 16, 8), torch.tensor([3.0, 700.0]), draw(2, 5, 12)
    cond = Cond(tokens=tokens)
    told, words = net.tell(noise, net.heard(cond)), net.read(tokens, None)
    middle, kept = net.descend(net.begin(x), told, words)
    extra = [draw(*t.shape, seed=i) for i, t in enumerate((*kept, middle))]
    want = peer(
        x, noise, tokens, down_block_additional_residuals=tuple(extra[:-1]), mid_block_additional_residual=extra[-1]
    ).sample
    assert difference(net.draw(x, told, words, extra=extra).F, want) <= 1e-4
    assert difference(net.draw(x, told, words).F, want) > 0.01  # they say something

    halved = config is XL  # there the first resolution reads no words, and is halved before
    shapes = [(2, 16, 8, 4) if halved else (2, 16, 16, 8), (2, 32, 8, 4), (2, 48, 4, 2), (2, 48, 4, 2)]
    within = [draw(*shape, seed=20 + i) for i, shape in enumerate(shapes)]
    for given in (within, within[:3]):
        want = peer(x, noise, tokens, down_intrablock_additional_residuals=[t.clone() for t in given]).sample
        assert difference(net.draw(x, told, words, within=given).F, want) <= 1e-4
    both = net.draw(x, told, words, extra=extra, within=within).F
    want = peer(
        x, noise, tokens, down_block_additional_residuals=tuple(extra[:-1]), mid_block_additional_residual=extra[-1],
        down_intrablock_additional_residuals=[t.clone() for t in within],
    ).sample  # fmt: skip
    assert difference(both, want) <= 1e-4
    with pytest.raises(SpecError, match=rf"extra has 2 tensors: this network has {len(kept)} skips"):
        net.draw(x, told, words, extra=extra[:2])


@torch.no_grad()
def test_a_trunk_is_the_way_down_alone() -> None:
    net, _ = pair(SD)
    trunk = Trunk(net.spec, [plan for plan in net.spec.stages() if plan.way <= 0]).eval()
    state = net.state_dict()
    trunk.load_state_dict({name: state[name] for name in trunk.state_dict()})
    assert {name for k in unet.encoder_keys(net.spec) for name in k.ours} == set(trunk.state_dict())
    assert {name for k in unet.ldm_encoder_keys(net.spec) for name in k.ours} == set(trunk.state_dict())
    x, noise, tokens = draw(1, 4, 16, 8), torch.tensor([3.0]), draw(1, 5, 12)
    for one, other in ((net, trunk), (trunk, net)):
        assert torch.equal(
            one.descend(one.begin(x), one.tell(noise, None), one.read(tokens, None))[0],
            other.descend(other.begin(x), other.tell(noise, None), other.read(tokens, None))[0],
        )


# --- words pooled, a run bound -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@torch.no_grad()
def test_a_bound_run_hears_the_pooled_words(masked: bool) -> None:
    net = stirred(JOINED.build())
    mask = torch.tensor([[True] * 7, [True] * 3 + [False] * 4]) if masked else None
    cond = Cond(tokens=draw(2, 7, 24), mask=mask, vector=torch.tensor([[30.0], [400.0]]))
    bound = net.bind(cond, [900.0, 20.0])
    x = draw(2, 3, 8, 8)
    for noise in (900.0, 20.0, 500.0):  # the last is not listed
        want = net(x, torch.tensor([noise, noise]), cond)
        assert difference(bound(x, torch.tensor([noise])).F, want.F) <= 1e-5
    for other in (cond._replace(tokens=draw(2, 7, 24, seed=2)), cond._replace(vector=cond.vector.flip(0))):
        assert difference(net(x, torch.tensor([20.0]), other).F, net(x, torch.tensor([20.0]), cond).F) > 1e-3


@torch.no_grad()
def test_numbers_stay_whole_in_half_precision() -> None:
    """A network in bfloat16 hears 999 and not 1000, with pooled words before it in one vector and without."""
    for spec in (JOINED, JOINED.model_copy(update={"pool_heads": 0}), JOINED.model_copy(update={"classes": 1001})):
        net = stirred(spec.build()).bfloat16()
        noise, tokens = torch.tensor([30.0]), draw(1, 7, 24)
        one, two = (
            net.tell(noise, net.heard(Cond(tokens=tokens, vector=torch.tensor([[n]], dtype=torch.float32))))
            for n in (999, 1000)
        )
        assert all(not torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("itself", [True, False])
@torch.no_grad()
def test_joined_attention_is_its_formula(itself: bool) -> None:
    look = stirred(JoinedSpec(head_width=8, itself=itself).make(16, GroupNormSpec(groups=4), context=6))
    x, tokens = draw(2, 16, 3, 4), draw(2, 5, 6)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    n = look.norm(x).flatten(2).mT
    q, *own = F.linear(n, look.qkv.weight, look.qkv.bias).chunk(3 if itself else 1, dim=2)
    k, v = F.linear(tokens, look.kv.weight, look.kv.bias).chunk(2, dim=2)
    seen = torch.cat((mask, torch.ones(2, 12 * itself, dtype=torch.bool)), dim=1)
    if itself:
        k, v = torch.cat((k, own[0]), dim=1), torch.cat((v, own[1]), dim=1)
    q, k, v = (t.unflatten(2, (2, 8)).transpose(1, 2) for t in (q, k, v))
    weight = (q @ k.mT / 8**0.5).masked_fill(~seen[:, None, None], -torch.inf).softmax(-1)
    y = F.linear((weight @ v).transpose(1, 2).flatten(2), look.out.weight, look.out.bias)
    assert difference(look(x, look.read(tokens, mask)), x + y.mT.unflatten(2, (3, 4))) <= 1e-5


# --- what cannot be ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"depth": (1, 2, 3)}, "one for each of 2 resolutions"),
        ({"depth": 0}, "from 1 on"),
        ({"down": BlockDown()}, "block-down and block-up go together"),
        ({"classes": 10}, "one number, the class"),
        ({"pad": False, "skips": 1}, "pad false goes with"),
        ({"numbers": 3, "cond": 2}, "Cond.vector has 2 entries"),
        ({"pool_heads": 4}, "give their width as context"),
        ({"context": 12, "pool_heads": 5, "middle": TransformerSpec()}, "do not divide words of 12"),
    ],
)
def test_fields_that_contradict_each_other_are_named(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        UNetSpec(**{"widths": (32, 64), **fields})


def test_what_cannot_be_built_is_one_line() -> None:
    base = {"widths": (32, 64), "skips": 3, "depth": 2}
    for spec, match in (
        (UNetSpec(**base, block=ConvNextSpec(), down=BlockDown(), up=BlockUp()), "'convnext' cannot change the resolution"),
        (UNetSpec(**base, middle=JoinedSpec()), "reads a text; give the network a context"),
        (UNetSpec(**base, middle=TransformerSpec(itself=False)), "needs a text to read"),
        (UNetSpec(**base, down=ConvDown(kernel=4, after=True)), "are for kernel 3"),
    ):
        with pytest.raises(SpecError, match=match) as error:
            spec.build()
        assert "\n" not in str(error.value)
    with pytest.raises(SpecError, match="there is none of size 100"):
        UNetSpec.adm(100)
    with pytest.raises(SpecError, match="cond.vector is 3 wide, with what is pooled: this network hears 2"):
        UNetSpec(**base, cond=2).build()(draw(1, 1, 8, 8), torch.tensor([1.0]), Cond(vector=draw(1, 3)))
