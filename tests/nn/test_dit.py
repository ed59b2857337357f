"""DiT and its blocks: the papers' sizes, peers and torch's own layers with the same weights, and what each kind claims of itself."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.cond import Cond
from safelight.model import ModelSpec
from safelight.nn.dit import DiT, DiTSpec
from safelight.nn.embed import SinusoidSpec
from safelight.nn.places import positions
from safelight.predict import V
from safelight.process.continuous import Cosine
from safelight.spec import SpecError, build, describe, kinds
from safelight.text.label import LabelSpec
from tests.nn.peers import copied

BLOCKS = tuple(kinds("dit-block"))
MODULATED = ("adaln", "adaln-zero", "adaln-single")
SMALL = DiTSpec(cond=6, width=32, depth=2, heads=4, embedding=SinusoidSpec(width=16))


def draw(*shape: int, seed: int = 1) -> Tensor:
    """Normal numbers of a seed."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small(kind: str = "adaln-zero", **fields: object) -> DiTSpec:
    """`SMALL` of another kind of block."""
    return DiTSpec(**{**dict(SMALL), "block": kind, **fields})


def awake(spec: DiTSpec, std: float = 0.1) -> DiT:
    """A DiT none of whose weights is zero."""
    torch.manual_seed(0)
    net = spec.build()
    for p in net.parameters():
        nn.init.normal_(p, std=std)
    return net


def everything(b: int = 2) -> Cond:
    """A condition of batch b for `small(context=5, image=2)` on 8 x 8: five words, of which the last two do not count."""
    mask = torch.tensor([[True, True, True, False, False]]).expand(b, -1)
    return Cond(tokens=draw(b, 5, 5, seed=2), mask=mask, vector=draw(b, 6, seed=3), image=draw(b, 2, 8, 8, seed=4))


# --- sizes -------------------------------------------------------------------------------------------------------------------


def parameters(net: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(p.numel() for p in net.parameters())


def imagenet(network: DiTSpec) -> ModelSpec:
    """The whole model of the paper's experiments: 1000 classes and the null one, latents of 4 x 32 x 32."""
    text = LabelSpec(names=tuple(str(i) for i in range(1000)), width=network.width)
    return ModelSpec(
        network=network, process=Cosine(), parameterization=V(), text=text, channels=network.channels, size=(32, 32)
    )


@pytest.mark.parametrize(("size", "millions"), [("S", 32.96), ("B", 130.5), ("L", 458.1), ("XL", 675.1)])
def test_counts_with_the_fixed_positions(size: str, millions: float) -> None:
    """All that is learned, the table of 1001 classes included, and the 256 fixed positions, which the authors' files hold."""
    with torch.device("meta"):
        model = imagenet(DiTSpec.preset(size)).build()
        table = positions((16, 16), model.spec.network.width, torch.zeros(()))
    count = parameters(model) + table.numel()
    assert round(count / 1e6, 2 if size == "S" else 1) == millions
    assert size != "S" or count == 32_963_360
    assert size != "XL" or round(table.numel() / 1e6, 2) == 0.29


PUBLISHED = {  # Peebles and Xie 2023, table 4: millions
    **{("S", p, "adaln-zero"): 33 for p in (8, 4, 2)},
    **{("B", p, "adaln-zero"): m for p, m in ((8, 131), (4, 130), (2, 130))},
    **{("L", p, "adaln-zero"): m for p, m in ((8, 459), (4, 458), (2, 458))},
    **{("XL", p, "adaln-zero"): m for p, m in ((8, 676), (4, 675), (2, 675))},
    ("XL", 2, "in-context"): 449,
    ("XL", 2, "cross-attention"): 598,
    ("XL", 2, "adaln"): 600,
}


@pytest.mark.parametrize(("size", "patch", "kind"), PUBLISHED)
def test_counts_of_table_4(size: str, patch: int, kind: str) -> None:
    """The learned numbers alone, the fixed positions left out: so counted, all fifteen of the table come out to the million."""
    with torch.device("meta"):
        model = imagenet(DiTSpec.preset(size, patch, block=kind)).build()
    assert round(parameters(model) / 1e6) == PUBLISHED[size, patch, kind]


def test_count_of_pixart() -> None:
    """610.9 M learned numbers, the map of captions included; T5, the stored null caption and the fixed positions are not."""
    with torch.device("meta"):
        net = DiTSpec.pixart().build()
    assert round(parameters(net) / 1e6, 1) == 610.9


# --- against peers with the same weights -------------------------------------------------------------------------------------


def halves(mine: nn.Module, attention: nn.Module, feed: nn.Module) -> list:
    """Pairs (ours, theirs) of what every block has, from diffusers' modules."""
    parts = (attention.to_q, attention.to_k, attention.to_v)
    return [
        (mine.qkv.weight, torch.cat([p.weight for p in parts])),
        (mine.qkv.bias, torch.cat([p.bias for p in parts])),
        (mine.out, attention.to_out[0]),
        (mine.up, feed.net[0].proj),
        (mine.down, feed.net[2]),
    ]


PRECISION = [(torch.float32, 1e-5), (torch.float64, 1e-10)]


@pytest.mark.parametrize(("dtype", "gate"), PRECISION)
def test_adaln_zero_with_diffusers_weights(dtype: torch.dtype, gate: float) -> None:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    peer = diffusers.DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=8, patch_size=2,
        num_embeds_ada_norm=10, norm_eps=1e-6, dropout=0.0,
    ).eval()  # fmt: skip
    for p in peer.parameters():
        nn.init.normal_(p, std=0.1)
    first = peer.transformer_blocks[0].norm1.emb
    for block in peer.transformer_blocks[1:]:
        block.norm1.emb = first  # diffusers keeps one embedder a block, the paper has one

    net = DiTSpec(
        channels=4, cond=32, cond_linear=False, width=32, depth=2, heads=4, learned_variance=True,
        embedding=SinusoidSpec(width=256, closed=True, cos_first=True),
    ).build()  # fmt: skip
    time = first.timestep_embedder
    pairs = [(net.patch, peer.pos_embed.proj), (net.time[0], time.linear_1), (net.time[2], time.linear_2)]
    pairs += [(net.tell_last, peer.proj_out_1), (net.last, peer.proj_out_2)]
    for mine, yours in zip(net.blocks, peer.transformer_blocks, strict=True):
        pairs += [(mine.tell, yours.norm1.linear), *halves(mine, yours.attn1, yours.ff)]
    copied(net, pairs).to(dtype)
    peer.to(dtype)
    if dtype == torch.float64:  # waves and positions are float32 numbers in both, rounded apart: here they are shared
        first.time_proj = net.embedding
        peer.pos_embed.pos_embed = positions((4, 4), 32, torch.zeros((), dtype=dtype))[None]
    x, t, labels = draw(2, 4, 8, 8).to(dtype), torch.tensor([3.0, 990.0]), torch.tensor([1, 7])
    with torch.no_grad():
        reference = peer(x, t.long(), class_labels=labels).sample
        out = net(x, t, Cond(vector=first.class_embedder.embedding_table(labels)))
    ours = torch.cat((out.F, 2 * out.fraction - 1), dim=1)
    assert (ours - reference).abs().max() <= gate * reference.abs().max()


@pytest.mark.parametrize(("dtype", "gate"), PRECISION)
@pytest.mark.parametrize("sized", [False, True])
def test_adaln_single_with_diffusers_weights(sized: bool, dtype: torch.dtype, gate: float) -> None:
    """PixArt-alpha's network, padded captions, and with size and aspect ratio told as a vector at twice the training size."""
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    peer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=4, attention_head_dim=9, in_channels=4, out_channels=8, num_layers=2, sample_size=8, patch_size=2,
        cross_attention_dim=36, caption_channels=10, use_additional_conditions=sized, interpolation_scale=2 if sized else 1,
    ).eval()  # fmt: skip
    for p in peer.parameters():
        nn.init.normal_(p, std=0.1)
    net = DiTSpec(
        channels=4, cond=36 if sized else 0, cond_linear=False, context=10, learned_variance=True, width=36, depth=2, heads=4,
        spacing=0.5 if sized else 1.0, block="adaln-single",
    ).build()  # fmt: skip
    single, caption = peer.adaln_single, peer.caption_projection
    time = single.emb.timestep_embedder
    pairs = [(net.patch, peer.pos_embed.proj), (net.time[0], time.linear_1), (net.time[2], time.linear_2)]
    pairs += [(net.caption[0], caption.linear_1), (net.caption[2], caption.linear_2), (net.tell_all, single.linear)]
    pairs += [(net.table_last, peer.scale_shift_table), (net.last, peer.proj_out)]
    for mine, yours in zip(net.blocks, peer.transformer_blocks, strict=True):
        read = yours.attn2
        pairs += [(mine.table, yours.scale_shift_table), *halves(mine, yours.attn1, yours.ff)]
        pairs += [(mine.cross.q, read.to_q), (mine.cross.out, read.to_out[0])]
        pairs += [(mine.cross.kv.weight, torch.cat((read.to_k.weight, read.to_v.weight)))]
        pairs += [(mine.cross.kv.bias, torch.cat((read.to_k.bias, read.to_v.bias)))]
    copied(net, pairs).to(dtype)
    peer.to(dtype)
    if dtype == torch.float64:
        single.emb.time_proj = net.embedding
        peer.pos_embed.pos_embed = positions((4, 4), 36, torch.zeros((), dtype=dtype), net.spec.spacing)[None]
    x, t, tokens = draw(2, 4, 8, 8).to(dtype), torch.tensor([3.0, 990.0]), draw(2, 5, 10, seed=2).to(dtype)
    mask = torch.tensor([[True, True, True, True, True], [True, True, False, False, False]])
    sizes = {"resolution": torch.tensor([[512.0, 768.0], [64.0, 32.0]]), "aspect_ratio": torch.tensor([[0.66], [2.0]])}
    vector = None
    with torch.no_grad():
        if sized:
            waves = {name: single.emb.additional_condition_proj(value.flatten()).to(dtype) for name, value in sizes.items()}
            told = [single.emb.resolution_embedder(waves["resolution"]).reshape(2, -1)]
            vector = torch.cat([*told, single.emb.aspect_ratio_embedder(waves["aspect_ratio"]).reshape(2, -1)], dim=1)
        reference = peer(
            x, encoder_hidden_states=tokens, timestep=t.long(), added_cond_kwargs=sizes if sized else None,
            encoder_attention_mask=mask.to(dtype),
        ).sample  # fmt: skip
        out = net(x, t, Cond(tokens=tokens, mask=mask, vector=vector))
    ours = torch.cat((out.F, 2 * out.fraction - 1), dim=1)
    assert (ours - reference).abs().max() <= gate * reference.abs().max()


def torch_layer(block: nn.Module, width: int, heads: int, cross: nn.Module | None = None) -> nn.Module:
    """torch's own pre-norm transformer layer, encoder or (with `cross`) decoder, with the weights of a block of ours."""
    kind = nn.TransformerEncoderLayer if cross is None else nn.TransformerDecoderLayer
    gelu = nn.GELU(approximate="tanh")
    theirs = kind(width, heads, 4 * width, 0.0, gelu, 1e-6, batch_first=True, norm_first=True, dtype=torch.float64)
    pairs = [(theirs.self_attn.in_proj_weight, block.qkv.weight), (theirs.self_attn.in_proj_bias, block.qkv.bias)]
    pairs += [(theirs.self_attn.out_proj, block.out), (theirs.linear1, block.up), (theirs.linear2, block.down)]
    pairs += [(theirs.norm1, block.norm1), (theirs.norm2, block.norm2)]
    if cross is not None:
        pairs += [(theirs.norm3, block.norm3), (theirs.multihead_attn.out_proj, cross.out)]
        pairs += [(theirs.multihead_attn.in_proj_weight, torch.cat((cross.q.weight, cross.kv.weight)))]
        pairs += [(theirs.multihead_attn.in_proj_bias, torch.cat((cross.q.bias, cross.kv.bias)))]
    return copied(theirs, pairs).train()  # in evaluation torch takes a fused path of its own


@pytest.mark.parametrize("context", [0, 5])
@pytest.mark.parametrize("cond", [0, 6])
@pytest.mark.parametrize("kind", ["in-context", "cross-attention"])
def test_token_blocks_are_torchs_transformer(kind: str, cond: int, context: int) -> None:
    """In context: an encoder on (patches, time, class, text). Cross-attention: a decoder whose memory is (time, class, text)."""
    net = awake(small(kind, cond=cond, context=context, learned_variance=True)).double()
    x, t, c = draw(2, 1, 6, 4).double(), torch.tensor([3.0, 700.0]), everything()
    c = Cond(tokens=c.tokens.double(), mask=c.mask, vector=c.vector.double())
    told = [net.time(net.embedding(t).double())[:, None]]
    told += [F.linear(c.vector, net.cond.weight, net.cond.bias)[:, None]] if cond else []
    told += [net.caption[2](F.gelu(net.caption[0](c.tokens), approximate="tanh"))] if context else []
    told = torch.cat(told, dim=1)
    hidden = torch.zeros(2, told.shape[1], dtype=torch.bool)
    if context:
        hidden[:, -5:] = ~c.mask
    patches = F.unfold(x, 2, stride=2).transpose(1, 2)  # (B, h w, C p p)
    y = net.patch(patches) + positions((3, 2), 32, x)
    n = y.shape[1]
    if kind == "in-context":
        y, hidden = torch.cat((y, told), dim=1), F.pad(hidden, (n, 0))
    for block in net.blocks:
        if kind == "in-context":
            y = torch_layer(block, 32, 4)(y, src_key_padding_mask=hidden)
        else:
            y = torch_layer(block, 32, 4, block.cross)(y, told, memory_key_padding_mask=hidden)
    y = net.last(F.layer_norm(y[:, :n], (32,), net.norm_last.weight, net.norm_last.bias, eps=1e-6))
    y = y.unflatten(2, (4, 2)).permute(0, 3, 2, 1).flatten(1, 2)  # channels last in a patch: (B, 2 p p, h w)
    want = F.fold(y, (6, 4), 2, stride=2)
    out = net(x, t, c)
    torch.testing.assert_close(torch.cat((out.F, 2 * out.fraction - 1), dim=1), want, rtol=0, atol=1e-10)


def test_adaln_is_adaln_zero_with_its_gates_at_one() -> None:
    plain, gated = awake(small("adaln", context=5)), awake(small("adaln-zero", context=5))
    state = {k: v for k, v in plain.state_dict().items() if ".tell." not in k}
    for i, block in enumerate(plain.blocks):
        weight, bias = block.tell.weight.detach().chunk(4), block.tell.bias.detach().chunk(4)  # shift1, scale1, shift2, scale2
        none, one = torch.zeros(32, 32), torch.ones(32)
        state[f"blocks.{i}.tell.weight"] = torch.cat((*weight[:2], none, *weight[2:], none))
        state[f"blocks.{i}.tell.bias"] = torch.cat((*bias[:2], one, *bias[2:], one))
    gated.load_state_dict(state)
    args = (draw(2, 1, 8, 8), torch.tensor([1.0, 500.0]), everything())
    torch.testing.assert_close(plain(*args).F, gated(*args).F, rtol=0, atol=1e-5)


def test_adaln_single_is_adaln_zero_with_one_map_shared() -> None:
    """Section 2.3 of PixArt-alpha: the same blocks, each told `W silu(time) + b + table`."""
    single, zero = awake(small("adaln-single", context=5)), awake(small("adaln-zero", context=5))
    state = {k: v for k, v in single.state_dict().items() if "table" not in k and "tell" not in k}
    for i, block in enumerate(single.blocks):
        state[f"blocks.{i}.tell.weight"] = single.tell_all.weight
        state[f"blocks.{i}.tell.bias"] = single.tell_all.bias + block.table.flatten()
    zero.load_state_dict({**zero.state_dict(), **state})
    x, t, cond = draw(2, 1, 8, 8), torch.tensor([1.0, 500.0]), everything()
    told = zero.tell(t, cond.vector)[:-1], single.tell(t, cond.vector)[-1:]  # the last norm is told in another way
    want = single(x, t, cond).F
    torch.testing.assert_close(zero.draw(x, told[0] + told[1], zero.read(*cond[:2])).F, want, rtol=0, atol=1e-5)


# --- how they begin ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BLOCKS)
def test_starts_at_zero(kind: str) -> None:
    torch.manual_seed(0)
    net = small(kind, context=5, image=2).build()
    assert not net(draw(2, 1, 8, 8), torch.tensor([1.0, 2.0]), everything()).F.any()


def test_a_fresh_adaln_zero_block_is_the_identity() -> None:
    torch.manual_seed(0)
    net, cond, y = small(context=5).build(), everything(), draw(2, 16, 32)
    told, words = net.tell(torch.tensor([1.0, 2.0]), cond.vector), net.read(*cond[:2])
    assert torch.equal(net.blocks[0](y, told[0], words[0]), y)  # every gate is zero, and so is what the text adds


@pytest.mark.parametrize("kind", MODULATED)
def test_text_is_silent_at_the_start_and_noise_where_the_paper_says(kind: str) -> None:
    """A fresh cross-attention adds nothing. The two of DiT begin deaf to the time also; PixArt's single map does not."""
    torch.manual_seed(0)
    net = small(kind, context=5).build()
    nn.init.normal_(net.last.weight)
    x, t, cond = draw(2, 1, 8, 8), torch.tensor([1.0, 2.0]), everything()
    base = net(x, t, cond).F
    assert torch.equal(net(x, t, cond._replace(tokens=draw(2, 5, 5, seed=9))).F, base)
    assert torch.equal(net(x, t + 500, cond).F, base) == (kind != "adaln-single")
    for block in net.blocks:
        nn.init.normal_(block.cross.out.weight)
    assert (net(x, t, cond._replace(tokens=draw(2, 5, 5, seed=9))).F - net(x, t, cond).F).abs().max() > 1e-3


@pytest.mark.parametrize("kind", BLOCKS)
def test_fresh_weights_spread_as_in_the_authors_code(kind: str) -> None:
    torch.manual_seed(0)
    net = DiTSpec(width=128, depth=2, heads=4, cond=64, context=64, block=kind).build()
    told = [net.time[0], net.time[2], net.cond, net.caption[0], net.caption[2]]
    told += [net.tell_all] if kind == "adaln-single" else []
    for layer in told:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.05)
    plain = [net.patch, *(layer for block in net.blocks for layer in (block.qkv, block.out, block.up, block.down))]
    for layer in plain:  # Glorot and Bengio 2010, eq. 16
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / sum(layer.weight.shape)), rel=0.1)
    assert not any(layer.bias.any() for layer in (*told, *plain))
    if kind == "adaln-single":
        for table in (net.table_last, *(block.table for block in net.blocks)):
            assert table.std().item() == pytest.approx(128**-0.5, rel=0.15)


# --- what is heard -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing", [1.0, 0.5])
def test_positions_are_the_formula(spacing: float) -> None:
    table = positions((3, 5), 16, torch.zeros((), dtype=torch.float32), spacing).reshape(3, 5, 16)
    for row in range(3):
        for col in range(5):
            want = []
            for p in (col * spacing, row * spacing):
                w = [10000 ** (-i / 4) for i in range(4)]
                want += [math.sin(p * f) for f in w] + [math.cos(p * f) for f in w]
            torch.testing.assert_close(table[row, col], torch.tensor(want), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", BLOCKS)
def test_any_size_is_the_padded_picture_cropped(kind: str) -> None:
    net = awake(small(kind))
    x, t, cond = draw(2, 1, 7, 5), torch.tensor([1.0, 2.0]), Cond(vector=draw(2, 6))
    rows, cols = torch.arange(8).clamp(max=6), torch.arange(6).clamp(max=4)
    whole = net(x[:, :, rows][..., cols], t, cond).F
    torch.testing.assert_close(net(x, t, cond).F, whole[:, :, :7, :5], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", BLOCKS)
def test_each_condition_is_heard_by_its_own_picture_only(kind: str) -> None:
    net = awake(small(kind, image=2, context=5), std=0.3).double()
    one = everything(1)
    x, t = draw(1, 1, 8, 8).double().expand(2, -1, -1, -1), torch.tensor([1.0, 1.0])
    cond = Cond(*(field.expand(2, *field.shape[1:]) for field in one))
    base = net(x, t, cond).F
    for field in ("vector", "image", "tokens"):
        value = getattr(cond, field).clone()
        value[1] += 1.0
        y = net(x, t, cond._replace(**{field: value})).F
        torch.testing.assert_close(y[0], base[0], rtol=0, atol=1e-12)
        assert (y[1] - base[1]).abs().max() > 1e-3, field
    y = net(x, torch.tensor([1.0, 3.0]), cond).F
    torch.testing.assert_close(y[0], base[0], rtol=0, atol=1e-12)
    assert (y[1] - base[1]).abs().max() > 1e-3
    for field, word in (("vector", "cond.vector"), ("image", "cond.image"), ("tokens", "cond.tokens")):
        with pytest.raises(SpecError, match=f"{word} is missing: the network was built with") as error:
            net(x, t, cond._replace(**{field: None}))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", BLOCKS)
def test_masked_tokens_are_not_read(kind: str) -> None:
    net = awake(small(kind, image=2, context=5))
    x, t, cond = draw(2, 1, 8, 8), torch.tensor([1.0, 2.0]), everything()
    base = net(x, t, cond).F
    other = torch.where(cond.mask[..., None], cond.tokens, 100.0)
    assert torch.equal(net(x, t, cond._replace(tokens=other)).F, base)
    torch.testing.assert_close(net(x, t, cond._replace(tokens=cond.tokens[:, :3], mask=None)).F, base, rtol=0, atol=1e-5)
    nothing = cond._replace(mask=torch.zeros(2, 5, dtype=torch.bool))
    if kind in MODULATED:  # attention to nothing is undefined: the text is read whole
        torch.testing.assert_close(net(x, t, nothing).F, net(x, t, cond._replace(mask=None)).F, rtol=0, atol=1e-5)
    else:  # time and class are always there
        assert torch.equal(net(x, t, nothing._replace(tokens=other)).F, net(x, t, nothing).F)


@pytest.mark.parametrize("kind", BLOCKS)
def test_qk_norm_makes_the_size_of_queries_and_keys_nothing(kind: str) -> None:
    """Three times the maps of q and k, in every attention: the same picture with qk_norm, another without."""
    args = (draw(2, 1, 8, 8), torch.tensor([1.0, 2.0]), everything())
    for qk_norm in (True, False):
        net = awake(small(kind, image=2, context=5, qk_norm=qk_norm))
        with torch.no_grad():
            base = net(*args).F
            for block in net.blocks:
                maps = [(block.qkv, 64), *([(block.cross.q, 32), (block.cross.kv, 32)] if hasattr(block, "cross") else [])]
                for p in (p[:n] for m, n in maps for p in m.parameters()):
                    p *= 3
            assert torch.allclose(net(*args).F, base, atol=1e-3 * float(base.abs().max())) == qk_norm


# --- running -----------------------------------------------------------------------------------------------------------------

# What a run needs once: the time's embedding, the vector's map, the caption's, and what each kind makes of them for its blocks.
ONCE = {
    "adaln": {"tell", "kv"},
    "adaln-zero": {"tell", "kv"},
    "adaln-single": {"tell_all", "kv"},
    "in-context": set(),
    "cross-attention": {"kv"},
}


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("kind", BLOCKS)
def test_bind_makes_what_is_constant_once_and_changes_nothing(kind: str, qk_norm: bool) -> None:
    """Modules are counted: over a run of four levels, twice through, those of the conditions run once, all others each time."""
    net = awake(small(kind, image=2, context=5, qk_norm=qk_norm)).eval()
    cond, levels = everything(), (999.0, 500.0, 20.0, 0.0)
    wanted = {value: net(draw(2, 1, 8, 8), torch.full((2,), value), cond).F for value in (*levels, 123.4)}
    calls: Counter[str] = Counter()
    for name, module in net.named_modules():
        if not list(module.children()):
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    bound = net.bind(cond, levels)
    for value in (*levels, *levels):
        got = bound(draw(2, 1, 8, 8), torch.tensor([value])).F
        assert (got - wanted[value]).abs().max() <= 1e-6 * wanted[value].abs().max().clamp(min=1)
    # A map of keys may run twice (for noise and for text), a norm of keys with it.
    once = {name for name, count in calls.items() if count <= 2}
    heads = {"tell_last", "cond", "embedding", "time.0", "time.1", "time.2", "caption.0", "caption.1", "caption.2"}
    names = {name for name, _ in net.named_modules()} & heads
    names |= {name for name, _ in net.named_modules() if name.split(".")[-1] in ONCE[kind]}
    names |= {name for name, _ in net.named_modules() if name.endswith("cross.attend.norm_k")}
    assert once == names
    assert {count for name, count in calls.items() if name not in once} <= {8, 16}
    got = bound(draw(2, 1, 8, 8), torch.tensor([123.4])).F  # a level that was not listed
    assert (got - wanted[123.4]).abs().max() <= 1e-6 * wanted[123.4].abs().max().clamp(min=1)


@pytest.mark.parametrize("kind", BLOCKS)
def test_checkpointing_gives_equal_gradients_and_runs_blocks_again(kind: str) -> None:
    net = awake(small(kind, image=2, context=5, qk_norm=True))
    runs: Counter[bool] = Counter()
    net.blocks[0].up.register_forward_hook(lambda *_: runs.update([net.checkpointing]))
    grads = []
    for net.checkpointing in (False, True):
        net.zero_grad()
        net(draw(2, 1, 8, 8), torch.tensor([1.0, 2.0]), everything()).F.square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in net.named_parameters()})
    assert runs == {False: 1, True: 2}
    assert all(g.any() for g in grads[0].values())
    assert all(torch.equal(g, grads[1][name]) for name, g in grads[0].items())


@pytest.mark.parametrize("kind", BLOCKS)
def test_bfloat16_autocast_stays_close(kind: str) -> None:
    net = awake(small(kind, image=2, context=5))
    args = (draw(2, 1, 8, 8), torch.tensor([1.0, 900.0]), everything())
    reference = net(*args).F
    with torch.autocast("cpu", torch.bfloat16):
        y = net(*args).F
    assert (y.float() - reference).norm() / reference.norm() < 0.03
    whole = net.bfloat16()(args[0].bfloat16(), *args[1:]).F  # weights in bfloat16, a condition in float32
    assert (whole.float() - reference).norm() / reference.norm() < 0.03


@pytest.mark.parametrize("kind", BLOCKS)
def test_compiles_whole_and_once(kind: str) -> None:
    """One graph, no break; other noise values and other pictures need no new one."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    torch._dynamo.reset()
    net = awake(small(kind, image=2, context=5, depth=1))
    whole = torch.compile(net, backend=backend, fullgraph=True)
    for seed in (1, 2):
        args = (draw(2, 1, 8, 8, seed=seed), torch.tensor([1.0, 20.0 * seed]), everything())
        torch.testing.assert_close(whole(*args).F, net(*args).F, rtol=0, atol=2e-5)
    assert len(graphs) == 1


# --- descriptions ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", BLOCKS)
def test_described_and_built_again(kind: str) -> None:
    net = awake(small(kind, image=2, context=5))
    assert describe(net)["block"] == {"kind": kind}
    again = build(describe(net))
    assert type(again) is type(net)
    again.load_state_dict(net.state_dict())
    args = (draw(2, 1, 8, 8), torch.tensor([1.0, 2.0]), everything())
    assert torch.equal(again(*args).F, net(*args).F)


def test_a_description_of_before_the_kinds_is_adaln_zero_with_the_same_names() -> None:
    """Files written when there was one kind of block name none, and hold these tensors in this order."""
    net = build({"family": "network", "kind": "dit", "cond": 6, "width": 32, "depth": 1, "heads": 4, "qk_norm": True})
    assert net.spec.block.kind == "adaln-zero"
    block = ("tell.weight", "tell.bias", "attend.norm_q.g", "attend.norm_k.g")
    block += tuple(f"{m}.{p}" for m in ("qkv", "out", "up", "down") for p in ("weight", "bias"))
    outer = [f"{m}.{p}" for m in ("time.0", "time.2", "cond", "patch") for p in ("weight", "bias")]
    ends = [f"{m}.{p}" for m in ("last", "tell_last") for p in ("weight", "bias")]
    assert list(net.state_dict()) == [*outer, *(f"blocks.0.{name}" for name in block), *ends]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"heads": 5}, "heads: 5 do not divide the width 32"),
        ({"block": "adaln-zeros"}, "did you mean 'adaln-zero'"),
        ({"cond": 8, "cond_linear": False}, "cond is 8: without cond_linear it must be the width, 32"),
    ],
)
def test_faulty_fields_are_one_line(fields: dict[str, object], says: str) -> None:
    with pytest.raises(SpecError, match=says) as error:
        build({"kind": "dit", "width": 32, "heads": 4, **fields}, "network")
    assert "\n" not in str(error.value)


def test_a_model_whose_text_the_network_would_not_hear_is_refused() -> None:
    """`context` counts as listening, as in a U-Net."""
    with pytest.raises(ValueError, match="network.context is 5, but text 'label' gives nothing there"):
        imagenet(small(context=5, cond=32))
