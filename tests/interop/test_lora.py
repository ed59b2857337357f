"""LoRA files: every flavour read and written, against diffusers' own loader and writer; what does not fit is told."""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from safelight.adapt.lora import Change, Lora, wear
from safelight.codec.pixels import PixelsSpec
from safelight.cond import Cond
from safelight.interop import lora as files
from safelight.interop.keys import to_ours, to_theirs
from safelight.interop.maps import clip, pixart, unet
from safelight.model import Model, ModelSpec
from safelight.nn.unet import UNetSpec
from safelight.predict import Eps
from safelight.spec import SpecError, build
from safelight.text.clip import CLIPTextSpec
from safelight.text.sdxl import SDXLTextSpec
from safelight.text.vocabulary import layout
from tests import peers, small
from tests.interop.test_dit_maps import peer_pixart

UNET = UNetSpec.latent((16, 32), (1, 0), 16, heads=2, linear=False, groups=8)
TEXT = CLIPTextSpec(width=16, layers=2, heads=2, length=16, quick=True, masks=False)


def rand(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model() -> Model:
    """A Stable Diffusion 1 of tiny width."""
    spec = ModelSpec(
        network=UNET,
        process=build("cosine", "process"),
        parameterization=Eps(),
        codec=PixelsSpec(),
        text=TEXT,
        channels=4,
        size=(8, 8),
    )
    made = peers.stirred(spec.build())
    assert isinstance(made, Model)
    return made


@pytest.fixture(scope="module")
def ours() -> Model:
    return model()


# Layers of every sort, in the names of diffusers and of the original file: attention of both kinds, maps that are convolutions there,
# convolutions, the time, the first and last; and with how much rank, alpha and of which type.
LAYERS = {
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q": ("input_blocks.2.1.transformer_blocks.0.attn1.to_q", 4, 2.0),
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_v": ("input_blocks.2.1.transformer_blocks.0.attn1.to_v", 2, 3.0),
    "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k": ("input_blocks.2.1.transformer_blocks.0.attn2.to_k", 4, None),
    "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_out.0": (
        "input_blocks.2.1.transformer_blocks.0.attn2.to_out.0",
        4,
        2.0,
    ),
    "down_blocks.0.attentions.1.transformer_blocks.0.ff.net.0.proj": (
        "input_blocks.2.1.transformer_blocks.0.ff.net.0.proj",
        4,
        2.0,
    ),
    "up_blocks.1.attentions.0.proj_in": ("output_blocks.3.1.proj_in", 3, 1.5),
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_k": ("middle_block.1.transformer_blocks.0.attn1.to_k", 4, 2.0),
    "down_blocks.1.resnets.0.conv1": ("input_blocks.4.0.in_layers.2", 4, 2.0),
    "down_blocks.1.resnets.0.time_emb_proj": ("input_blocks.4.0.emb_layers.1", 4, 2.0),
    "down_blocks.1.resnets.0.conv_shortcut": ("input_blocks.4.0.skip_connection", 4, 2.0),
    "down_blocks.0.downsamplers.0.conv": ("input_blocks.3.0.op", 4, 2.0),
    "conv_in": ("input_blocks.0.0", 4, 2.0),
    "conv_out": ("out.2", 2, 2.0),
    "time_embedding.linear_1": ("time_embed.0", 4, 2.0),
}
WORDS = {
    "text_model.encoder.layers.0.self_attn.q_proj": (4, 2.0),
    "text_model.encoder.layers.1.self_attn.out_proj": (4, 2.0),
    "text_model.encoder.layers.1.mlp.fc1": (2, None),
}


def shape(model: Model, name: str, of: str = "unet") -> tuple[int, ...]:
    return next(x.shape for x in files.Spellings(model).layers if (x.of, x.spelling, x.name) == (of, "diffusers", name))


def kohya(model: Model, original: bool = False, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """A file as kohya's trainer writes it."""
    found = {}
    text = {f"lora_te_{name}": (name, "text_encoder", rank, alpha) for name, (rank, alpha) in WORDS.items()}
    pictured = {f"lora_unet_{(o if original else n)}": (n, "unet", rank, alpha) for n, (o, rank, alpha) in LAYERS.items()}
    for i, (stem, (name, of, rank, alpha)) in enumerate((text | pictured).items()):
        rows, inner, *kernel = shape(model, name, of)
        key = stem.replace(".", "_")
        found[f"{key}.lora_down.weight"] = rand(rank, inner, *kernel, seed=i).to(dtype) * 0.2
        found[f"{key}.lora_up.weight"] = rand(rows, rank, *(1 for _ in kernel), seed=i + 100).to(dtype) * 0.2
        if alpha is not None:
            found[f"{key}.alpha"] = torch.tensor(alpha, dtype=dtype)
    return found


NOTES = {"ss_network_module": "networks.lora", "ss_network_dim": "4", "ss_tag_frequency": '{"a": {"b, c": 1}}'}
LAST = layout(TEXT.vocabulary).size - 1
X, NOISE, TOKENS = rand(2, 4, 8, 8, seed=1), torch.tensor([3.0, 700.0]), torch.tensor([[5, 9, 2, LAST] + [LAST] * 12] * 2)


def answers(model: Model) -> tuple[Tensor, Tensor]:
    """What the network says, told by words of its own, and the words."""
    with torch.no_grad():
        tokens = model.text.tower(TOKENS)[0]  # type: ignore[union-attr, operator]
        return model.denoiser.network(X, NOISE, Cond(tokens=rand(2, 5, 16, seed=2))).F, tokens


def put(path: Path, tensors: dict[str, Tensor], notes: dict[str, str] | None = None) -> Path:
    save_file(tensors, path, metadata=notes)
    return path


def same(a: Path, b: Path) -> None:
    """Two files hold the same tensors, types and bits, and the same notes."""
    one, other = load_file(a), load_file(b)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert value.dtype == other[name].dtype and value.shape == other[name].shape and torch.equal(value, other[name]), name
    with safe_open(a, "pt") as first, safe_open(b, "pt") as second:
        assert (first.metadata() or {}) == (second.metadata() or {})


def theirs(model: Model) -> tuple[nn.Module, nn.Module]:
    """The same network and text tower, of diffusers and transformers."""
    d, t = peers.diffusers(), peers.transformers()
    net = d.UNet2DConditionModel.from_config(unet.config(UNET, 8)).eval()
    net.load_state_dict(to_theirs(unet.keys(UNET), model.denoiser.network.state_dict()))
    assert model.text is not None
    settings = {k: v for k, v in clip.config(TEXT).items() if k not in ("_class_name", "architectures")}
    words = t.CLIPTextModel(t.CLIPTextConfig(**settings)).eval()
    names = words.state_dict()
    state = to_theirs(clip.keys(TEXT, clip.prefix(names)), model.text.state_dict())
    words.load_state_dict(state, strict=False)
    return net, words


def worn_by_diffusers(path: Path, net: nn.Module, words: nn.Module) -> tuple[Tensor, Tensor]:
    """What their network and tower say with a file that their own loader has read."""
    mixin: Any = peers.diffusers().loaders.StableDiffusionLoraLoaderMixin
    state, alphas, notes = mixin.lora_state_dict(str(path), unet_config=net.config, return_lora_metadata=True)
    mixin.load_lora_into_unet(dict(state), network_alphas=alphas, unet=net, adapter_name="a", metadata=notes)
    mixin.load_lora_into_text_encoder(
        dict(state), network_alphas=alphas, text_encoder=words, prefix="text_encoder", adapter_name="a", metadata=notes
    )
    with torch.no_grad():
        said = net(X, NOISE, encoder_hidden_states=rand(2, 5, 16, seed=2)).sample
        return said, words(TOKENS).last_hidden_state


@pytest.mark.parametrize("flavour", ["kohya", "diffusers", "legacy"])
def test_diffusers_reads_what_is_written_and_gives_the_same(flavour: files.Flavour, ours: Model, tmp_path: Path) -> None:
    """Mixed ranks, alphas that are not the rank, some missing; attention, convolutions, both encoders. Unequal alpha proves it is read."""
    tensors = kohya(ours, dtype=torch.float32)
    if flavour == "kohya":  # of several alphas in a file their reader loses those of attention
        tensors |= {n.replace("lora_down.weight", "alpha"): torch.tensor(3.0) for n in tensors if n.endswith("down.weight")}
    lora, report = files.load(put(tmp_path / "in.safetensors", tensors), ours)
    assert len(report.matched) == len(tensors) and not report.problems
    files.save(tmp_path / "out.safetensors", lora, ours, flavour)
    plain = answers(ours)
    with wear(ours, [(lora, 1.0)]):
        mine = answers(ours)
    peer = worn_by_diffusers(tmp_path / "out.safetensors", *theirs(ours))
    for found, expected, before in zip(mine, peer, plain, strict=True):
        assert peers.difference(found, expected) < 1e-5
        assert peers.difference(before, expected) > 0.05


def test_what_diffusers_writes_is_read_and_gives_the_same(ours: Model, tmp_path: Path) -> None:
    import peft

    d = peers.diffusers()
    net, words = theirs(ours)
    targets = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1", "conv_in", "time_embedding.linear_2"]
    torch.manual_seed(0)
    for which, names in ((net, targets), (words, ["q_proj", "out_proj", "fc2"])):
        config = peft.LoraConfig(
            r=4,
            lora_alpha=3,
            target_modules=names,
            rank_pattern={names[0]: 2},
            alpha_pattern={names[1]: 5},
            init_lora_weights=False,
        )
        which.add_adapter(config)  # type: ignore[operator]
    get = peft.utils.get_peft_model_state_dict
    d.StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get(net),
        text_encoder_lora_layers=get(words, adapter_name="default"),
        unet_lora_adapter_metadata=net.peft_config["default"].to_dict(),  # type: ignore[index, union-attr]
        text_encoder_lora_adapter_metadata=words.peft_config["default"].to_dict(),  # type: ignore[index, union-attr]
    )
    lora, _ = files.load(tmp_path / "pytorch_lora_weights.safetensors", ours)
    with wear(ours, [(lora, 1.0)]):
        mine = answers(ours)
    with torch.no_grad():
        peer = net(X, NOISE, encoder_hidden_states=rand(2, 5, 16, seed=2)).sample, words(TOKENS).last_hidden_state
    for found, expected in zip(mine, peer, strict=True):
        assert peers.difference(found, expected) < 1e-5


@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_once_through_every_flavour_and_back_is_the_same_bits(
    original: bool, dtype: torch.dtype, ours: Model, tmp_path: Path
) -> None:
    """kohya -> PEFT -> legacy -> diffusers -> the original's names -> our own -> kohya: tensors, types, alphas, notes."""
    begin = put(tmp_path / "begin.safetensors", kohya(ours, original, dtype), NOTES)
    at = begin
    way: tuple[files.Flavour, ...] = ("peft", "legacy", "diffusers", "original", "safelight", "kohya")
    for flavour in way:
        lora, report = files.load(at, ours)
        assert not report.problems
        at = tmp_path / (flavour if flavour == "peft" else f"{flavour}.safetensors")
        files.save(at, lora, ours, flavour)
    same(begin, at)


def test_every_layer_of_the_network_has_a_name_in_every_flavour(ours: Model) -> None:
    """diffusers#14005: layers whose names hold underscores are lost where a name is taken apart instead of being looked up."""
    weights = {n: m for n, m in ours.named_modules() if isinstance(m, nn.Linear | nn.Conv2d) and n.startswith("denoiser")}
    changes = tuple(
        Change(name, rand(2, *m.weight.shape[1:], seed=i), rand(len(m.weight), 2, seed=i + 500))
        for i, (name, m) in enumerate(weights.items())
    )
    with wear(ours, [(Lora(changes), 1.0)]):
        expected = answers(ours)[0]
    for flavour in files.FLAVOURS:
        tensors, notes, configs = files.spelled(Lora(changes), ours, flavour)
        lora, report = files.read(tensors, notes, ours, configs=configs)
        assert not report.problems and {c.module for c in lora.changes} == set(weights)
        with wear(ours, [(lora, 1.0)]):
            assert peers.difference(answers(ours)[0], expected) < 1e-6, flavour


def test_a_file_of_the_original_names_means_the_same_layers(ours: Model, tmp_path: Path) -> None:
    found = []
    for original in (False, True):
        lora, _ = files.load(put(tmp_path / f"{original}.safetensors", kohya(ours, original)), ours)
        found.append({c.label: (c.down, c.up) for c in lora.changes})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(a, b) for name in found[0] for a, b in zip(found[0][name], found[1][name], strict=True))


def test_alpha_is_the_rank_where_it_is_missing_and_each_layer_has_its_own(ours: Model, tmp_path: Path) -> None:
    """diffusers PR#14409: mixed ranks without alpha were worn at a quarter."""
    lora, _ = files.load(put(tmp_path / "a.safetensors", kohya(ours)), ours)
    by = {c.down.shape[0]: c.scale for c in lora.changes if c.alpha is None}
    assert by == {4: 1.0, 2: 1.0}
    assert {(c.rank, c.scale) for c in lora.changes if c.alpha is not None} >= {(4, 0.5), (2, 1.5), (3, 0.5), (2, 1.0)}


def test_a_folder_of_peft_says_its_alpha_beside(ours: Model, tmp_path: Path) -> None:
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
    tensors = {
        f"base_model.model.{name}.lora_A.weight": rand(4, 32, seed=1),
        f"base_model.model.{name}.lora_B.weight": rand(32, 4, seed=2),
    }
    put(tmp_path / "adapter_model.safetensors", tensors)
    config = {"r": 4, "lora_alpha": 8, "alpha_pattern": {}, "use_rslora": False}
    for extra, scale in (({}, 2.0), ({"alpha_pattern": {"attn1.to_k": 2}}, 0.5), ({"use_rslora": True}, 4.0)):
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | extra))
        lora, _ = files.load(tmp_path, ours)
        assert [c.scale for c in lora.changes] == [scale] and lora.name == tmp_path.name


def test_dora_travels_and_is_refused_where_there_is_no_word_for_it(ours: Model, tmp_path: Path) -> None:
    tensors = kohya(ours, dtype=torch.float32)
    for name in [n for n in tensors if n.endswith("lora_up.weight")]:
        rows, _, *ones = tensors[name].shape
        tensors[name.replace("lora_up.weight", "dora_scale")] = rand(rows, 1, *ones, seed=len(name)).abs() + 0.5
    begin = put(tmp_path / "a.safetensors", tensors, NOTES)
    lora, _ = files.load(begin, ours)
    assert all(c.magnitude is not None for c in lora.changes)
    way: tuple[files.Flavour, ...] = ("peft", "diffusers", "original", "kohya")
    for flavour in way:
        at = tmp_path / f"{flavour}.safetensors"
        files.save(at, lora, ours, flavour)
        lora, _ = files.load(at, ours)
    same(begin, at)
    with pytest.raises(SpecError, match="'legacy' has no word for the magnitude"):
        files.save(tmp_path / "l.safetensors", lora, ours, "legacy")


def test_a_middle_of_locon_comes_back_and_is_no_other_flavours(ours: Model, tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_1_resnets_0_conv1"
    rows, inner, *kernel = shape(ours, "down_blocks.1.resnets.0.conv1")
    tensors = {
        f"{name}.lora_down.weight": rand(3, inner, 1, 1, seed=1),
        f"{name}.lora_mid.weight": rand(3, 3, *kernel, seed=2),
        f"{name}.lora_up.weight": rand(rows, 3, 1, 1, seed=3),
    }
    begin = put(tmp_path / "a.safetensors", tensors, NOTES)
    lora, _ = files.load(begin, ours)
    files.save(tmp_path / "s.safetensors", lora, ours, "safelight")
    lora, _ = files.load(tmp_path / "s.safetensors", ours)
    files.save(tmp_path / "b.safetensors", lora, ours, "kohya")
    same(begin, tmp_path / "b.safetensors")
    with pytest.raises(SpecError, match="'diffusers' has no word for the mid of"):
        files.save(tmp_path / "d.safetensors", lora, ours, "diffusers")


def test_a_fused_change_of_ours_becomes_three_of_theirs(ours: Model, tmp_path: Path) -> None:
    at, layer = next((n, m) for n, m in ours.named_modules() if n.endswith("qkv") and isinstance(m, nn.Linear))
    rows, inner = layer.weight.shape
    whole = Lora((Change(at, rand(2, inner, seed=3), rand(rows, 2, seed=4), torch.tensor(1.0)),))
    files.save(tmp_path / "a.safetensors", whole, ours, "kohya")
    lora, _ = files.load(tmp_path / "a.safetensors", ours)
    assert sorted(c.label for c in lora.changes) == [f"{at}[{i}/3]" for i in (1, 2, 3)]
    with wear(ours, [(whole, 1.0)]):
        expected = answers(ours)[0]
    with wear(ours, [(lora, 1.0)]):
        assert peers.difference(answers(ours)[0], expected) < 1e-6


def test_a_model_without_a_counterpart_has_adapters_of_its_own(tmp_path: Path) -> None:
    made = small.model()
    name, layer = next((n, m) for n, m in made.named_modules() if isinstance(m, nn.Linear))
    rows, inner = layer.weight.shape
    mine = Lora((Change(name, rand(2, inner, seed=1), rand(rows, 2, seed=2), torch.tensor(4.0)),), about={"title": "mine"})
    files.save(tmp_path / "mine.safetensors", mine, made, "safelight")
    lora, _ = files.load(tmp_path / "mine.safetensors", made)
    assert lora.name == "mine" and lora.about == {"title": "mine"} and torch.equal(lora.changes[0].up, mine.changes[0].up)
    with pytest.raises(SpecError, match="has no name in the flavour 'kohya'; only 'safelight' has one for every layer"):
        files.save(tmp_path / "k.safetensors", mine, made, "kohya")


XL = UNetSpec.latent((16, 32), (0, 2), 40, head_width=8, cond=24 + 6, numbers=6, groups=8)
BIG = CLIPTextSpec(width=24, layers=2, heads=2, length=16, projection=24, pad=0, masks=False)


@pytest.mark.parametrize("spelling", ["original", "diffusers"])
def test_two_text_encoders_have_adapters_of_their_own_and_come_back(spelling: str, tmp_path: Path) -> None:
    """SDXL as kohya names it: lora_te1_, lora_te2_, and the network by the names of either, most often of the single file."""
    spec = ModelSpec(
        network=XL,
        process=build("cosine", "process"),
        parameterization=Eps(),
        codec=PixelsSpec(),
        text=SDXLTextSpec.of(TEXT, BIG, size=(8, 8)),
        channels=4,
        size=(8, 8),
    )
    xl = spec.build().eval()
    known = files.Spellings(xl)
    assert {x.of for x in known.layers} == {"unet", "text_encoder", "text_encoder_2"}
    found, names = dict[str, Tensor](), set[str]()
    for i, x in enumerate(known.layers):
        if x.spelling == (spelling if x.of == "unet" else "diffusers"):
            stem = known.stem(x, "kohya")
            names.add(stem)
            rows, inner, *kernel = x.shape
            found[f"{stem}.lora_down.weight"] = rand(2, inner, *kernel, seed=i)
            found[f"{stem}.lora_up.weight"] = rand(rows, 2, *(1 for _ in kernel), seed=i + 900)
            found[f"{stem}.alpha"] = torch.tensor(1.0 + i % 3)
    assert "lora_te1_text_model_encoder_layers_0_self_attn_q_proj" in names
    assert "lora_te2_text_model_encoder_layers_1_mlp_fc2" in names
    if spelling == "original":
        assert "lora_unet_middle_block_1_transformer_blocks_1_attn2_to_k" in names
    begin = at = put(tmp_path / "begin.safetensors", found, NOTES)
    way: tuple[files.Flavour, ...] = ("peft", "legacy", "diffusers", "original", "safelight", "kohya")
    for flavour in way:
        lora, _ = files.load(at, xl)
        at = tmp_path / (flavour if flavour == "peft" else f"{flavour}.safetensors")
        files.save(at, lora, xl, flavour)
    same(begin, at)
    one = {c.module: c for c in lora.changes}
    first, second = (next(n for n in one if n.startswith(f"text.encoders.{i}.")) for i in (0, 1))
    with wear(xl, [(lora, {"text.encoders.1": 1.0})]) as worn:
        assert second in worn.names and first not in worn.names


@pytest.mark.parametrize(
    "network, text, counts",
    [
        (UNetSpec.sd1(), CLIPTextSpec.openai_l(), {"unet": 192, "text_encoder": 72}),
        (UNetSpec.sd2(), CLIPTextSpec.openclip_h(), {"unet": 192, "text_encoder": 138}),
        (UNetSpec.sdxl(), SDXLTextSpec.base(), {"unet": 722, "text_encoder": 72, "text_encoder_2": 192}),
    ],
)
def test_the_published_models_have_as_many_layers_as_trainers_say(network: Any, text: Any, counts: dict[str, int]) -> None:
    """kohya's trainer names the numbers of modules it trains: those of the transformers, and of the text encoders' blocks."""
    with torch.device("meta"):
        spec = ModelSpec(
            network=network, process=build("cosine", "process"), parameterization=Eps(), text=text, channels=4, size=(64, 64)
        )
        known = files.Spellings(spec.build())
    trained = [
        x for x in known.layers if x.spelling == "diffusers" and any(n in x.name for n in (".attentions.", "self_attn", "mlp"))
    ]
    assert {of: sum(x.of == of for x in trained) for of in counts} == counts
    spelled = [[x[:3] for x in known.layers if x.of == "unet" and x.spelling == s] for s in ("diffusers", "original")]
    assert sorted(spelled[0]) == sorted(spelled[1])  # every layer, by both names


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k: v for k, v in tensors.items() if k != name}


A = rand(2, 2, seed=0)
FIRST = "lora_te_text_model_encoder_layers_0_self_attn_q_proj"


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda t: t | {"lora_unet_conv_inn.lora_down.weight": A}, "conv_inn.*no such layer; did you mean 'lora_unet_conv_in'"),
        (lambda t: t | {"lora_unet_conv_in.hada_w1_a": rand(2, 2, seed=0)}, "of a LoHa, which is not read here"),
        (lambda t: t | {"lora_unet_conv_in.diff": rand(2, 2, seed=0)}, "of a full difference of weights"),
        (lambda t: t | {"unet.conv_in.lora_A.weight": rand(4, 4, 3, 3, seed=0)}, "conv_in.lora_.* .the same layer as .*conv_in.lora_"),
        (lambda t: t | {"epoch": torch.tensor(1)}, "1 unused: epoch .no tensor of a LoRA is called so"),
        (lambda t: without(t, f"{FIRST}.lora_up.weight"), r"1 missing: lora_te.*\(its 'up' is not there\)"),
        (lambda t: t | {f"{FIRST}.lora_down.weight": rand(4, 24, seed=0)}, r"1 mismatched: .*where the layer has 16 rows of 16"),
        (lambda t: t | {f"{FIRST}.lora_down.weight": rand(3, 16, seed=0)}, "down has rank 3, up 4"),
        (lambda t: t | {f"{FIRST}.alpha": torch.ones(2)}, "its alpha is 2 numbers"),
        (lambda t: t | {f"{FIRST}.lora_down.weight": torch.ones(0, 16), f"{FIRST}.lora_up.weight": torch.ones(16, 0)}, "it has rank 0"),
        (lambda t: t | {f"{FIRST}.lora_up.weight": torch.ones(16, 4, dtype=torch.int8)}, "its 'up' is of int8"),
        (lambda t: t | {f"{FIRST}.lora_down.weight": torch.tensor(1.0)}, "1 mismatched"),
        (lambda t: t | {f"{FIRST}.dora_scale": torch.ones(1, 16)}, "one of columns"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_an_error_unless_it_may_be_left_out(change: Any, says: str, ours: Model, tmp_path: Path) -> None:
    whole = kohya(ours)
    path = put(tmp_path / "a.safetensors", change(whole))
    with pytest.raises(SpecError, match=says) as caught:
        files.load(path, ours)
    assert "\n" not in str(caught.value) and str(caught.value).endswith("--allow-partial takes the rest")
    lora, report = files.load(path, ours, partial=True)
    assert len(report.problems) == 1 and len(lora.changes) >= len(LAYERS) + len(WORDS) - 1


def test_a_file_of_which_nothing_fits_is_refused_also_when_part_would_do(ours: Model, tmp_path: Path) -> None:
    path = put(tmp_path / "a.safetensors", {"lora_unet_single_blocks_0.lora_down.weight": rand(2, 2, seed=0)})
    with pytest.raises(SpecError, match="0 matched, 1 unused"):
        files.load(path, ours, partial=True)
    with pytest.raises(SpecError, match="no file"):
        files.load(tmp_path / "none.safetensors", ours)


def test_an_adapter_of_another_architecture_is_refused_at_once(ours: Model, tmp_path: Path) -> None:
    """A hundred names that are unknown are told by the first; the nearest name is looked for once."""
    tensors = {f"lora_unet_input_blocks_9_9_to_{i}.lora_down.weight": rand(1, 1, seed=i) for i in range(2000)}
    began = time.perf_counter()
    with pytest.raises(SpecError, match="0 matched, 2000 unused: .*, and 1999 more"):
        files.load(put(tmp_path / "a.safetensors", tensors), ours)
    assert time.perf_counter() - began < 2


def test_a_folder_of_diffusers_and_one_without_any(ours: Model, tmp_path: Path) -> None:
    put(tmp_path / "pytorch_lora_weights.safetensors", kohya(ours))
    lora, _ = files.load(tmp_path, ours)
    assert lora.name == tmp_path.name and files.digest(tmp_path) == files.digest(tmp_path / "pytorch_lora_weights.safetensors")
    (tmp_path / "none").mkdir()
    for of in (files.digest, lambda path: files.load(path, ours)):
        with pytest.raises(SpecError, match="holds no adapter"):
            of(tmp_path / "none")


def test_damaged_settings_are_one_line(ours: Model, tmp_path: Path) -> None:
    tensors, notes, _ = files.spelled(files.load(put(tmp_path / "a.safetensors", kohya(ours)), ours)[0], ours, "diffusers")
    for text in (
        "{",
        "[]",
        '{"unet.lora_alpha": "x", "text_encoder.lora_alpha": []}',
        '{"unet.lora_alpha": 1, "unet.alpha_pattern": 3}',
    ):
        with pytest.raises(SpecError, match="damaged"):
            files.read(tensors, notes | {"lora_adapter_metadata": text}, ours)


def test_the_digest_is_of_the_tensors_alone(ours: Model, tmp_path: Path) -> None:
    a, b = (put(tmp_path / f"{i}.safetensors", {"x": torch.arange(4.0)}, {"n": "1" * i}) for i in (1, 30))
    assert files.digest(a) == files.digest(b) and len(files.digest(a)) == 12


@torch.no_grad()
def test_an_adapter_of_a_transformer_is_worn_as_peft_wears_it(tmp_path: Path) -> None:
    """PixArt: fused rows, a map whose halves change places, layers that every block reads; settings as our file says them."""
    import peft

    theirs = peer_pixart()
    spec = pixart.spec(dict(theirs.config))  # type: ignore[arg-type]
    whole = nn.Module()
    whole.spec, whole.text, whole.denoiser = SimpleNamespace(network=spec), None, nn.Module()  # type: ignore[assignment]
    net = whole.denoiser.network = spec.build().eval()
    state = theirs.state_dict()
    net.load_state_dict(to_ours(pixart.keys(spec), state.__getitem__, {k: v.shape for k, v in net.state_dict().items()}))
    made: Any = whole
    layers = [x for x in files.Spellings(made).layers if x.spelling == "diffusers"]
    changes = []
    for i, x in enumerate(layers):
        inner = files.Spellings(made).inner(x)
        changes.append(
            Change(x.module, rand(2, *inner, seed=i), 0.3 * rand(x.shape[0], 2, seed=i + 900), torch.tensor(1.0), *x[1:3])
        )
    files.save(tmp_path / "a.safetensors", Lora(tuple(changes)), made, "diffusers")
    found, notes = load_file(tmp_path / "a.safetensors"), {}
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        notes = json.loads(file.metadata()["lora_adapter_metadata"])
    noisy, tokens, t = rand(2, 4, 8, 8, seed=1), rand(2, 6, 10, seed=2), torch.tensor([3, 700])
    cond, more = Cond(tokens=tokens), {"resolution": None, "aspect_ratio": None}
    plain = net(noisy, t.float(), cond).F
    with wear(made, [(files.load(tmp_path / "a.safetensors", made)[0], 1.0)]):
        mine = net(noisy, t.float(), cond).F
    of = "transformer."
    config = peft.LoraConfig(**{name.removeprefix(of): value for name, value in notes.items()})
    peft.inject_adapter_in_model(config, theirs)
    peft.set_peft_model_state_dict(theirs, {name.removeprefix(of): value for name, value in found.items()})
    peer = theirs(noisy, tokens, t, added_cond_kwargs=more).sample[:, :4]
    assert peers.difference(mine, peer) < 1e-5 and peers.difference(plain, peer) > 0.05
