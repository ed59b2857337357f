"""DiT and PixArt-alpha as published: what diffusers writes is read, answers as there, and is written back; so are the authors' names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.cond import Cond
from safelight.interop import keys as core
from safelight.interop.maps import dit, pixart
from safelight.nn.dit import DiT, DiTSpec
from safelight.nn.network import Output
from safelight.nn.places import positions
from safelight.spec import SpecError, build, describe
from safelight.text.label import LabelSpec
from tests.peers import difference, diffusers, stirred

SIDE = dict(num_attention_heads=4, in_channels=4, num_layers=3, sample_size=8, patch_size=2)


def saved(peer: nn.Module, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """config.json and tensors, as the peer's own `save_pretrained` writes them."""
    peer.save_pretrained(folder)
    return json.loads((folder / "config.json").read_text()), load_file(folder / "diffusion_pytorch_model.safetensors")


def loaded(part: nn.Module, keys: list[core.Key], tensors: Mapping[str, Tensor]) -> None:
    """Strictly: every tensor of the part, from the tensors that the keys name."""
    shapes = {name: value.shape for name, value in part.state_dict().items()}
    part.load_state_dict(core.to_ours(keys, tensors.__getitem__, shapes))


def whole(out: Output) -> Tensor:
    """F and the learned variance as the networks' authors put them out, (B, 2 C, H, W)."""
    assert out.fraction is not None
    return torch.cat((out.F, 2 * out.fraction - 1), dim=1)


def peer_dit(**fields: Any) -> nn.Module:
    return stirred(
        diffusers().DiTTransformer2DModel(
            **SIDE | dict(attention_head_dim=8, out_channels=8, num_embeds_ada_norm=10, norm_eps=1e-5) | fields
        )
    )


def peer_pixart(**fields: Any) -> nn.Module:
    fields = SIDE | dict(attention_head_dim=9, out_channels=8, cross_attention_dim=36, caption_channels=10) | fields
    return stirred(diffusers().PixArtTransformer2DModel(**fields))


def tied(peer: nn.Module) -> nn.Module:
    """With one embedding of noise level and class for all blocks, as in the published files."""
    first = peer.transformer_blocks[0].norm1.emb.state_dict()
    for block in peer.transformer_blocks[1:]:
        block.norm1.emb.load_state_dict(first)
    return peer


# --- diffusers' files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [True, False])
def test_dit_answers_as_diffusers_and_is_written_back(one: bool, tmp_path: Path) -> None:
    """Ten inputs; with the embedding that all blocks share (published), and with one a block (trained further in diffusers)."""
    peer = tied(peer_dit()) if one else peer_dit()
    config, tensors = saved(peer, tmp_path)
    spec, text = dit.settled(dit.spec(config), dit.labels(config), tensors.__getitem__)
    assert spec.each != one
    net, table = build(describe(spec)).eval(), build(describe(text))
    both = [*dit.keys(spec), *dit.text_keys(spec)]
    core.check(both, tensors, "the folder")
    loaded(net, dit.keys(spec), tensors)
    loaded(table, dit.text_keys(spec), tensors)
    draws = torch.Generator().manual_seed(1)
    for _ in range(10):
        x = torch.randn(2, 4, 8, 8, generator=draws)
        t, labels = (torch.randint(n, (2,), generator=draws) for n in (1000, 11))
        with torch.no_grad():
            theirs = peer(x, t, class_labels=labels).sample
            ours = whole(net(x, t.float(), table(labels[:, None])))
        assert difference(ours, theirs) < 1e-5
    back = core.to_theirs(dit.keys(spec), net.state_dict()) | core.to_theirs(dit.text_keys(spec), table.state_dict())
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)
    written = dit.config(spec, classes=len(text.names))
    assert written == {name: config[name] for name in written}
    assert set(config) - set(written) == {"_diffusers_version"}


@pytest.mark.parametrize("sized", [False, True])
def test_pixart_answers_as_diffusers_and_is_written_back(sized: bool, tmp_path: Path) -> None:
    """Ten inputs, of several sizes, captions padded; with height, width and aspect ratio told, and without."""
    peer = peer_pixart(use_additional_conditions=sized, interpolation_scale=2 if sized else None)
    config, tensors = saved(peer, tmp_path)
    spec = pixart.spec(config)
    net, keys = build(describe(spec)).eval(), pixart.keys(spec)
    core.check(keys, tensors, "the folder")
    loaded(net, keys, tensors)
    draws = torch.Generator().manual_seed(1)
    for i in range(10):
        space = [(8, 8), (8, 12), (6, 4)][i % 3]
        x, tokens = torch.randn(2, 4, *space, generator=draws), torch.randn(2, 6, 10, generator=draws)
        t, lengths = torch.randint(1000, (2,), generator=draws), torch.randint(1, 7, (2,), generator=draws)
        mask = torch.arange(6) < lengths[:, None]
        sizes = torch.rand(2, 2, generator=draws) * 1000
        ratio = sizes[:, :1] / sizes[:, 1:]
        added = {"resolution": sizes, "aspect_ratio": ratio} if sized else {"resolution": None, "aspect_ratio": None}
        with torch.no_grad():
            theirs = peer(
                x, encoder_hidden_states=tokens, timestep=t, added_cond_kwargs=added, encoder_attention_mask=mask.float()
            ).sample
            ours = whole(net(x, t.float(), Cond(tokens, mask, torch.cat((sizes, ratio), dim=1) if sized else None)))
        assert difference(ours, theirs) < 1e-5
    back = core.to_theirs(keys, net.state_dict())
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)
    written = pixart.config(spec)
    wanted = {name: config[name] for name in written} | {"interpolation_scale": 2 if sized else 1}  # null there: said here
    assert written == wanted
    again = diffusers().PixArtTransformer2DModel.from_config(written)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in tensors.items()}


def test_a_class_without_learned_variance_and_the_old_class_name(tmp_path: Path) -> None:
    """`Transformer2DModel` is what the published folders' config.json says; the keys that only it has are known."""
    config, _ = saved(peer_dit(out_channels=None), tmp_path)
    old = config | {"_class_name": "Transformer2DModel", "num_vector_embeds": None, "cross_attention_dim": None,
                    "only_cross_attention": False, "use_linear_projection": False}  # fmt: skip
    assert dit.spec(old) == dit.spec(config)
    assert not dit.spec(config).learned_variance


def test_classes_are_called_as_the_pipeline_says_and_no_two_alike() -> None:
    names = {"0": "tench, Tinca tinca", "1": "crane", "2": "otter", "3": "crane"}
    text = dit.labels({"num_attention_heads": 2, "attention_head_dim": 4, "num_embeds_ada_norm": 5}, names)
    assert text == LabelSpec(names=("tench, Tinca tinca", "crane (1)", "otter", "crane (3)", "4"), width=8)


REFUSED = [
    (dit, {"norm_type": "layer_norm"}, 'norm_type "layer_norm"'),
    (dit, {"attention_bias": False}, "attention_bias false"),
    (dit, {"activation_fn": "geglu"}, 'activation_fn "geglu"'),
    (dit, {"out_channels": 3}, "out_channels 3"),
    (dit, {"num_layers": 0}, "num_layers"),
    (dit, {"patch_size": True}, "patch_size"),
    (pixart, {"caption_channels": None}, "caption_channels null"),
    (pixart, {"cross_attention_dim": 8}, "cross_attention_dim 8"),
    (pixart, {"attention_type": "gated"}, 'attention_type "gated"'),
    (pixart, {"norm_eps": "small"}, "norm_eps"),
]


@pytest.mark.parametrize(("module", "change", "named"), REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(module: Any, change: dict[str, Any], named: str) -> None:
    with pytest.raises(SpecError, match=named) as error:
        module.spec({"caption_channels": None if module is dit else 4096} | change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        (DiTSpec(width=32, heads=4, cond=32, cond_linear=False), "embedding"),
        (DiTSpec(width=32, heads=4, cond=6), "cond"),
        (DiTSpec(width=32, heads=4, cond=32, cond_linear=False, qk_norm=True), "qk_norm"),
    ],
)
def test_a_network_that_diffusers_cannot_be_is_refused_by_field(spec: DiTSpec, named: str) -> None:
    with pytest.raises(SpecError, match=rf"{dit.CLASS} has no counterpart of network\.{named}"):
        dit.config(spec, 8)


# --- the authors' files ------------------------------------------------------------------------------------------------------


def test_dit_xl_2_has_its_published_count() -> None:
    """675,129,632: the network, the table of 1001 classes, and the fixed positions that the authors' file holds (294,912)."""
    spec = DiTSpec.preset("XL").model_copy(update={"span": 16})
    with torch.device("meta"):
        net, table = spec.build(), LabelSpec(names=tuple(map(str, range(1000))), width=1152).build()
    fixed = dit.constants(spec)["pos_embed"]
    assert fixed.shape == (1, 256, 1152) and fixed.numel() == 294_912
    assert sum(p.numel() for part in (net, table) for p in part.parameters()) + fixed.numel() == 675_129_632


def reference(
    state: Mapping[str, Tensor], x: Tensor, t: Tensor, heads: int, hear: Tensor, tokens: Tensor | None = None
) -> Tensor:
    """DiT (or, with tokens, PixArt-alpha) written out from the papers, from tensors of the authors' names, patches of 2.

    hear: (B, width), the class's row, or what is added to the time. Returns (B, 2 C, H, W).
    """

    def linear(name: str, v: Tensor) -> Tensor:
        return F.linear(v, state[f"{name}.weight"].flatten(1), state[f"{name}.bias"])

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (a.unflatten(2, (heads, -1)).transpose(1, 2) for a in (q, k, v))
        return ((q @ k.mT * q.shape[-1] ** -0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)

    def modulated(v: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return F.layer_norm(v, v.shape[-1:], eps=1e-6) * (1 + scale) + shift

    single = "t_block.1.weight" in state
    height, wide = x.shape[2:]
    angle = t.float()[:, None] * torch.exp(-torch.arange(128) / 128 * torch.tensor(10000.0).log())
    c = linear("t_embedder.mlp.0", torch.cat((angle.cos(), angle.sin()), dim=1))
    c = linear("t_embedder.mlp.2", F.silu(c)) + hear
    y = linear("x_embedder.proj", F.unfold(x, 2, stride=2).mT)
    y = y + state["pos_embed"]
    if tokens is not None:
        tokens = linear("y_embedder.y_proj.fc2", F.gelu(linear("y_embedder.y_proj.fc1", tokens), approximate="tanh"))
    depth = len({name.split(".")[1] for name in state if name.startswith("blocks.")})
    for i in range(depth):
        block = f"blocks.{i}"
        if single:
            told = linear("t_block.1", F.silu(c)).unflatten(1, (6, -1)) + state[f"{block}.scale_shift_table"]
        else:
            told = linear(f"{block}.adaLN_modulation.1", F.silu(c)).unflatten(1, (6, -1))
        shift1, scale1, gate1, shift2, scale2, gate2 = told[:, :, None].unbind(1)
        q, k, v = linear(f"{block}.attn.qkv", modulated(y, shift1, scale1)).chunk(3, dim=2)
        y = y + gate1 * linear(f"{block}.attn.proj", attend(q, k, v))
        if tokens is not None:
            k, v = linear(f"{block}.cross_attn.kv_linear", tokens).chunk(2, dim=2)
            y = y + linear(f"{block}.cross_attn.proj", attend(linear(f"{block}.cross_attn.q_linear", y), k, v))
        inner = F.gelu(linear(f"{block}.mlp.fc1", modulated(y, shift2, scale2)), approximate="tanh")
        y = y + gate2 * linear(f"{block}.mlp.fc2", inner)
    if single:
        shift, scale = (state["final_layer.scale_shift_table"] + c[:, None])[:, :, None].unbind(1)
    else:
        shift, scale = linear("final_layer.adaLN_modulation.1", F.silu(c))[:, None].chunk(2, dim=2)
    y = linear("final_layer.linear", modulated(y, shift, scale)).unflatten(2, (4, -1)).permute(0, 3, 2, 1).flatten(1, 2)
    return F.fold(y, (height, wide), 2, stride=2)


def original(spec: DiTSpec, keys: list[core.Key]) -> tuple[DiT, dict[str, Tensor]]:
    """A network with every weight drawn, and its tensors by the authors' names."""
    net = stirred(spec.build())
    return net, core.to_theirs(keys, net.state_dict())


def test_the_authors_dit_file() -> None:
    spec = DiTSpec(channels=4, cond=128, cond_linear=False, learned_variance=True, width=128, depth=2, heads=2, span=4)
    net, state = original(spec, dit.ldm_keys(spec))
    table = stirred(LabelSpec(names=tuple("abcdef"), width=128).build())
    state |= core.to_theirs(dit.ldm_text_keys(spec), table.state_dict()) | dit.constants(spec)
    assert {
        "x_embedder.proj.weight": (128, 4, 2, 2), "y_embedder.embedding_table.weight": (7, 128), "pos_embed": (1, 16, 128),
        "t_embedder.mlp.0.weight": (128, 256), "blocks.1.attn.qkv.weight": (384, 128), "blocks.1.attn.proj.bias": (128,),
        "blocks.1.mlp.fc1.weight": (512, 128), "blocks.0.adaLN_modulation.1.weight": (768, 128),
        "final_layer.adaLN_modulation.1.bias": (256,), "final_layer.linear.weight": (32, 128),
    }.items() <= {name: tuple(value.shape) for name, value in state.items()}.items()  # fmt: skip
    assert dit.recognise({name: tuple(value.shape) for name, value in state.items()}) == spec
    x, t, labels = torch.randn(2, 4, 8, 8), torch.tensor([3, 990]), torch.tensor([[0], [6]])
    with torch.no_grad():
        ours = whole(net(x, t.float(), table(labels)))
    assert difference(ours, reference(state, x, t, 2, state["y_embedder.embedding_table.weight"][labels[:, 0]])) < 1e-5
    other = spec.build()
    loaded(other, dit.ldm_keys(spec), state)
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), net.state_dict().values(), strict=True))


@pytest.mark.parametrize("sized", [False, True])
def test_the_authors_pixart_file(sized: bool) -> None:
    span = 64 if sized else 4
    spec = DiTSpec(
        channels=4, context=10, learned_variance=True, width=192, depth=2, heads=3, span=span, block="adaln-single",
        cond=3 if sized else 0, sizes=sized, spacing=32 / span if sized else 1.0,
    )  # fmt: skip
    net, state = original(spec, pixart.ldm_keys(spec))
    held = state if sized else state | {"pos_embed": positions((4, 4), 192, torch.zeros(()))[None]}
    held = held | {"y_embedder.y_embedding": torch.zeros(120, 10)}
    assert pixart.recognise({name: tuple(value.shape) for name, value in held.items()}) == spec
    assert set(held) - set(state) <= set(pixart.UNUSED)
    x, t, tokens = torch.randn(2, 4, 8, 8), torch.tensor([3, 990]), torch.randn(2, 5, 10)
    sizes = torch.tensor([[512.0, 768.0, 512 / 768], [64.0, 32.0, 2.0]])
    hear = torch.zeros(2, 192)
    if sized:  # the authors embed each number to a third of the width
        waves = net.cond.embedding(sizes.flatten()).unflatten(0, (2, 3))
        parts = []
        for name, w in (("csize_embedder", waves[:, 0]), ("csize_embedder", waves[:, 1]), ("ar_embedder", waves[:, 2])):
            first = F.silu(F.linear(w, state[f"{name}.mlp.0.weight"], state[f"{name}.mlp.0.bias"]))
            parts.append(F.linear(first, state[f"{name}.mlp.2.weight"], state[f"{name}.mlp.2.bias"]))
        hear = torch.cat(parts, dim=1)
    # At half of their spacing, four patches stand where a span of 64 would lie: 32 / 4 apart.
    table = positions((4, 4), 192, torch.zeros(()), span * spec.spacing / 4)[None]
    with torch.no_grad():
        ours = whole(net(x, t.float(), Cond(tokens, None, sizes if sized else None)))
        theirs = reference(state | {"pos_embed": table}, x, t, 3, hear, tokens)
    assert difference(ours, theirs) < 1e-5


def test_other_files_are_not_recognised() -> None:
    assert dit.recognise({"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3)}) is None
    assert pixart.recognise({"x_embedder.proj.weight": (128, 4, 2, 2)}) is None


def test_adapters_find_the_share_of_the_fused_rows() -> None:
    """`places`: to_k of a block is the second third of our qkv, to_v of the cross-attention the second half of kv."""
    spec = pixart.spec({"caption_channels": 8, "num_layers": 1})
    places = core.places(pixart.keys(spec))
    assert places["transformer_blocks.0.attn1.to_k"][:3] == ("blocks.0.qkv", 1, 3)
    assert places["transformer_blocks.0.attn2.to_v"][:3] == ("blocks.0.cross.kv", 1, 2)
    assert places["pos_embed.proj"].shape == (-1, 4, 2, 2)
