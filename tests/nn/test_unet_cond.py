"""The U-Net of latent diffusion: text at chosen resolutions, a vector, and maps beside the picture (nine channels for inpainting)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from safelight.cond import Cond
from safelight.denoise import Denoiser, branches
from safelight.nn.attention import FullAttentionSpec, NoAttention, SpatialTransformer, TransformerSpec
from safelight.nn.blocks import ResnetSpec
from safelight.nn.dit import DiTSpec
from safelight.nn.embed import SinusoidSpec
from safelight.nn.network import NetworkSpec
from safelight.nn.norm import GroupNormSpec
from safelight.nn.unet import UNet, UNetSpec
from safelight.predict import X0
from safelight.process.continuous import Cosine
from safelight.spec import SpecError, kinds
from tests.nn.peers import copied


def draw(*shape: int, seed: int = 1) -> Tensor:
    """Normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def latent_diffusion(
    widths: Sequence[int], look: Sequence[bool], heads: int, context: int, groups: int = 32, image: int = 0, cond: int = 0
) -> UNetSpec:
    """Stable Diffusion 1's network (Rombach et al. 2022, appendix E). look: whether a resolution reads the text; the middle does."""

    def transformer(width: int) -> TransformerSpec:
        return TransformerSpec(heads=heads, head_width=width // heads, norm=GroupNormSpec(groups=groups, eps=1e-6))

    return UNetSpec(
        channels=4, image=image, cond=cond, context=context, widths=tuple(widths), depth=2, skips=3,
        block=ResnetSpec(scale_shift=False, zero=False), norm=GroupNormSpec(groups=groups),
        attention=tuple(transformer(w) if a else NoAttention() for w, a in zip(widths, look, strict=True)),
        middle=transformer(widths[-1]), embedding=SinusoidSpec(width=widths[0], closed=False, cos_first=True),
        time=4 * widths[0], zero=False,
    )  # fmt: skip


@pytest.mark.parametrize(("image", "count"), [(0, 859_520_964), (5, 859_535_364)])
def test_counts_of_stable_diffusion(image: int, count: int) -> None:
    """Version 1.5, and its form for inpainting, which has 5 x 320 x 9 more."""
    with torch.device("meta"):
        net = latent_diffusion((320, 640, 1280, 1280), (True, True, True, False), 8, 768, image=image).build()
    assert sum(p.numel() for p in net.parameters()) == count


# --- nine channels, against a peer -------------------------------------------------------------------------------------------


def from_diffusers(net: UNet, peer: nn.Module) -> UNet:
    """The weights of diffusers.UNet2DConditionModel, walked in the order in which they run."""
    blocks, attentions, resamples = [], [], []
    for level in (*peer.down_blocks, peer.mid_block, *peer.up_blocks):
        blocks += list(level.resnets)
        attentions += list(getattr(level, "attentions", None) or ())
        for samplers in (getattr(level, "downsamplers", None), getattr(level, "upsamplers", None)):
            resamples += [sampler.conv for sampler in samplers or ()]
    pairs: list = [(net.stem, peer.conv_in), (net.head, peer.conv_out), (net.norm, peer.conv_norm_out)]
    pairs += [(net.time[0], peer.time_embedding.linear_1), (net.time[2], peer.time_embedding.linear_2)]
    pairs += [(net.cond[0], peer.class_embedding.linear_1), (net.cond[2], peer.class_embedding.linear_2)]
    for stage, b in zip([s for s in net.stages if s.block is not None], blocks, strict=True):
        pairs += [(stage.tell, b.time_emb_proj), (stage.block.norm1, b.norm1), (stage.block.conv1, b.conv1)]
        pairs += [(stage.block.norm2, b.norm2), (stage.block.conv2, b.conv2)]
        pairs += [(stage.block.short, b.conv_shortcut)] if b.conv_shortcut is not None else []
    for stage, a in zip([s for s in net.stages if s.attention is not None], attentions, strict=True):
        mine, (yours,) = stage.attention.blocks[0], a.transformer_blocks
        pairs += [(stage.attention.norm, a.norm), (stage.attention.proj_in, a.proj_in), (stage.attention.proj_out, a.proj_out)]
        pairs += [(mine.norm1, yours.norm1), (mine.norm2, yours.norm2), (mine.norm3, yours.norm3)]
        one, two = yours.attn1, yours.attn2
        pairs += [(mine.qkv.weight, torch.cat((one.to_q.weight, one.to_k.weight, one.to_v.weight)))]
        pairs += [(mine.out, one.to_out[0]), (mine.cross.q, two.to_q), (mine.cross.out, two.to_out[0])]
        pairs += [(mine.cross.kv.weight, torch.cat((two.to_k.weight, two.to_v.weight)))]
        pairs += [(mine.feed.up, yours.ff.net[0].proj), (mine.feed.down, yours.ff.net[2])]
    for stage, r in zip([s for s in net.stages if s.resample is not None], resamples, strict=True):
        pairs += [(stage.resample, r)]
    return copied(net, pairs)


@pytest.mark.parametrize(("dtype", "gate"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
@pytest.mark.parametrize("look", [(True, True, False), (False, True, True)])
def test_nine_channels_with_diffusers_weights(look: tuple[bool, ...], dtype: torch.dtype, gate: float) -> None:
    """Picture, mask and masked picture; text at two resolutions of three; a vector. As a network, and as a denoiser bound to a run."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    peer = diffusers.UNet2DConditionModel(
        sample_size=16, in_channels=9, out_channels=4, block_out_channels=(16, 32, 48), layers_per_block=2,
        down_block_types=["CrossAttnDownBlock2D" if a else "DownBlock2D" for a in look],
        up_block_types=["CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(look)],
        cross_attention_dim=10, attention_head_dim=4, norm_num_groups=8, class_embed_type="projection",
        projection_class_embeddings_input_dim=6,
    ).eval()  # fmt: skip
    net = from_diffusers(latent_diffusion((16, 32, 48), look, 4, 10, groups=8, image=5, cond=6).build(), peer).to(dtype)
    peer.to(dtype)
    if dtype == torch.float64:
        peer.time_proj = net.embedding  # its waves are float32 numbers in both, rounded apart
    process, x = Cosine(), draw(2, 4, 16, 8).to(dtype)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    image = torch.cat(((draw(2, 1, 16, 8, seed=2) > 0).to(dtype), draw(2, 4, 16, 8, seed=3).to(dtype)), dim=1)
    cond = Cond(tokens=draw(2, 3, 10, seed=4).to(dtype), mask=mask, vector=draw(2, 6, seed=5).to(dtype), image=image)
    denoiser = Denoiser(net, process, X0())
    bound = denoiser.bind(cond, [process.at(torch.tensor(t)) for t in (0.9, 0.2)])

    def theirs(noise: Tensor) -> Tensor:
        told = {"encoder_hidden_states": cond.tokens, "encoder_attention_mask": mask, "class_labels": cond.vector}
        return peer(torch.cat((x, image), dim=1), noise, **told).sample

    with torch.no_grad():
        noise = torch.tensor([3.0, 870.0])
        want = theirs(noise)
        assert (net(x, noise, cond).F - want).abs().max() <= gate * want.abs().max()
        for t in (0.9, 0.2, 0.5):  # the last is not listed
            level = process.at(torch.tensor(t))
            noise = X0().coeffs(level, process).noise.float()
            want = theirs(noise.expand(2))
            assert (bound(x, level).x0 - want).abs().max() <= gate * want.abs().max()


def test_a_resolution_without_a_transformer_reads_nothing() -> None:
    net = latent_diffusion((16, 32, 48), (False, True, False), 4, 10, groups=8).build()
    words = net.read(draw(2, 3, 10), None)
    readers = {stage.plan.level for stage, w in zip(net.stages, words, strict=True) if w}
    assert readers == {1, 2}  # the middle is at the deepest
    assert all(bool(w) == isinstance(s.attention, SpatialTransformer) for s, w in zip(net.stages, words, strict=True))


def test_each_block_of_a_transformer_reads_by_its_own_keys_and_values() -> None:
    torch.manual_seed(0)
    net = TransformerSpec(head_width=8, depth=3, norm=GroupNormSpec(groups=4)).make(16, GroupNormSpec(groups=4), context=6)
    assert isinstance(net, SpatialTransformer)
    nn.init.normal_(net.proj_out.weight)
    x, tokens, mask = draw(2, 16, 3, 4), draw(2, 5, 6), torch.tensor([[True] * 5, [True, True, False, False, False]])
    y = net.proj_in(net.norm(x)).flatten(2).transpose(1, 2)
    for block in net.blocks:
        k, v = block.cross.kv(tokens).chunk(2, dim=2)
        q, k, v = (z.unflatten(2, (2, 8)).transpose(1, 2) for z in (block.cross.q(block.norm2(_seen(block, y))), k, v))
        weight = (q @ k.mT / 8**0.5).masked_fill(~mask[:, None, None], -torch.inf).softmax(-1)
        y = _seen(block, y) + block.cross.out((weight @ v).transpose(1, 2).flatten(2))
        y = y + block.feed(block.norm3(y))
    want = x + net.proj_out(y.transpose(1, 2).unflatten(2, (3, 4)))
    torch.testing.assert_close(net(x, net.read(tokens, mask)), want, rtol=1e-5, atol=1e-5)


def _seen(block: nn.Module, y: Tensor) -> Tensor:
    """y after a block's self-attention, by the formula."""
    q, k, v = (z.unflatten(2, (2, 8)).transpose(1, 2) for z in block.qkv(block.norm1(y)).chunk(3, dim=2))
    return y + block.out(((q @ k.mT / 8**0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))


# --- a map that the answer repeats -------------------------------------------------------------------------------------------


def copier(channels: int, image: int, take: int) -> UNet:
    """Weights with which F is the map's channels from `take` on: only the way stem -> last skip -> head is open."""
    full = FullAttentionSpec(head_width=8)
    net = UNetSpec(
        channels=channels, image=image, widths=(8, 16), depth=1, skips=2, norm=GroupNormSpec(groups=4), attention=(full,),
        middle=full, time=16, head_norm=False,
    ).build()  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.zero_()
        last = next(stage for stage in reversed(net.stages) if stage.plan.join)
        last.block.short.weight[:, -last.plan.join :] = torch.eye(8)
        for c in range(channels):
            net.stem.weight[c, channels + take + c, 1, 1] = 1
            net.head.weight[c, c, 1, 1] = 1
    return net


@pytest.mark.parametrize(("channels", "image", "take"), [(1, 1, 0), (3, 3, 0), (4, 5, 1)])
def test_a_network_can_repeat_its_map_exactly(channels: int, image: int, take: int) -> None:
    """A network that answers with its map: through the denoiser, bound or not, for any size, x0 is the map to the last bit."""
    process = Cosine()
    denoiser = Denoiser(copier(channels, image, take), process, X0())
    cond = Cond(image=draw(3, image, 9, 7, seed=2))
    want = cond.image[:, take : take + channels]
    levels = [process.at(torch.tensor(t)) for t in (1.0, 0.4)]
    bound = denoiser.bind(cond, levels)
    for level in (*levels, process.at(torch.tensor(0.7))):
        x = 50 * draw(3, channels, 9, 7)
        assert torch.equal(denoiser(x, level, cond).x0, want)
        assert torch.equal(bound(x, level).x0, want)
    each = process.at(torch.tensor([0.1, 0.5, 0.9]))  # a level a picture
    assert torch.equal(bound(x, each).x0, want)
    one = cond.take(slice(0, 1))  # one map for all
    assert torch.equal(denoiser.bind(one, levels)(x, levels[0]).x0, want[:1].expand_as(want))


def test_guidance_gives_each_branch_its_own_map() -> None:
    process = Cosine()
    denoiser = Denoiser(copier(4, 5, 1), process, X0())
    conds = {name: Cond(image=draw(2, 5, 8, 8, seed=seed)) for seed, name in enumerate(("cond", "null"))}
    level = process.at(torch.tensor(0.5))
    found = branches(denoiser, conds, [level])(draw(2, 4, 8, 8), level, ("cond", "null"))
    assert all(torch.equal(found[name].x0, conds[name].image[:, 1:]) for name in conds)


# --- every network that takes a map ------------------------------------------------------------------------------------------

MAPPED: dict[str, NetworkSpec] = {
    "unet": UNetSpec(
        channels=4, image=5, widths=(8, 16), depth=1, skips=2, norm=GroupNormSpec(groups=4),
        attention=(FullAttentionSpec(head_width=8),), middle=NoAttention(), time=16,
    ),
    **{k: DiTSpec(channels=4, image=5, width=32, depth=1, heads=4, block=k) for k in kinds("dit-block")},
}  # fmt: skip


@pytest.mark.parametrize("kind", MAPPED)
def test_a_map_of_another_shape_is_one_line(kind: str) -> None:
    net = MAPPED[kind].build()
    for shape in ((2, 4, 8, 8), (2, 5, 8, 4), (3, 5, 8, 8)):
        with pytest.raises(SpecError, match=r"cond.image is .* this network takes \(2, 5, 8, 8\)") as error:
            net(draw(2, 4, 8, 8), torch.tensor([1.0, 2.0]), Cond(image=draw(*shape)))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", MAPPED)
def test_a_map_in_float32_suits_a_network_in_bfloat16(kind: str) -> None:
    torch.manual_seed(0)
    net = MAPPED[kind].build()
    for p in net.parameters():
        nn.init.normal_(p, std=0.1)
    denoiser, x, cond = Denoiser(net, Cosine(), X0()), draw(2, 4, 8, 8), Cond(image=draw(2, 5, 8, 8, seed=2))
    level = Cosine().at(torch.tensor(0.5))
    want = denoiser(x, level, cond).x0
    net.bfloat16()
    for got in (denoiser(x, level, cond).x0, denoiser.bind(cond, [level])(x, level).x0):
        assert got.dtype == torch.float32
        assert (got - want).norm() / want.norm() < 0.03
