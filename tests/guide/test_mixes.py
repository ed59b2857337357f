"""Mixes on exact denoisers: closed forms, orthogonality, the limits in which they vanish, and how many passes they take."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from safelight.assets import Assets
from safelight.codec.kl import KLSpec
from safelight.cond import Cond
from safelight.denoise import Branches, Denoiser, Estimate, branches
from safelight.generate import Finished, generate
from safelight.guide import Bend, Mix
from safelight.model import Model, save
from safelight.nn import Network, Output
from safelight.nn.classifier import NoisyClassifierSpec
from safelight.nn.classifier import save as save_classifier
from safelight.process import Level
from safelight.spec import SpecError, build, describe, kinds, parse
from safelight.task import Request
from tests import small
from tests.oracle import Mixture

PROCESS = build("cosine", "process")
TIMES = (0.03, 0.3, 0.6, 0.97)


class Exact(Network):
    """The exact x0 of a mixture, of which `cond.vector` (B, 1) says the one of several; counts its passes and their rows."""

    def __init__(self, *mixtures: Mixture) -> None:
        super().__init__()
        self.mixtures, self.passes = mixtures, []

    def forward(self, x: Tensor, noise: Tensor, cond: Cond | None = None) -> Output:
        self.passes.append(len(x))
        level = PROCESS.at(float(noise[0]) / 1000)
        which = [0] * len(x) if cond is None or cond.vector is None else cond.vector[:, 0].long().tolist()
        found = [self.mixtures[k].mean(x[i : i + 1], float(level.alpha), float(level.sigma)) for i, k in enumerate(which)]
        return Output(torch.cat(found))


def denoiser(*mixtures: Mixture) -> Denoiser:
    return Denoiser(Exact(*mixtures), PROCESS, build("x0", "parameterization"))


def told(k: int, n: int) -> Cond:
    return Cond(vector=torch.full((n, 1), float(k), dtype=torch.float64))


RING = Mixture.ring(8)
HALVES = [
    Mixture(RING.w[k::2] / RING.w[k::2].sum(), RING.m[k::2], RING.u[k::2], RING.l[k::2]) for k in range(2)
]  # its components 0, 2, ... and 1, 3, ...
BLURRED = Mixture(RING.w, 0.8 * RING.m, RING.u, RING.l + 0.05)


def points(t: float, n: int = 6) -> Tensor:
    alpha, sigma, _ = PROCESS.at(t).floats
    return RING.noised(n, alpha, sigma, seed=3)


@pytest.mark.parametrize("t", TIMES)
def test_cfg_on_exact_denoisers(t: float) -> None:
    both = denoiser(HALVES[0], RING)
    x, level = points(t), PROCESS.at(t)
    found = build({"kind": "cfg", "scale": [1, 4]}, "mix")(branches(both, {"cond": told(0, 6), "null": told(1, 6)}))(x, level)
    alpha, sigma, _ = level.floats
    cond, null = HALVES[0].mean(x, alpha, sigma), RING.mean(x, alpha, sigma)
    torch.testing.assert_close(found.x0, null + (4 - 3 * t) * (cond - null), rtol=1e-9, atol=1e-9)
    assert both.network.passes == [12]  # two branches, one pass


@pytest.mark.parametrize("t", TIMES)
def test_autoguidance_on_two_exact_denoisers(t: float) -> None:
    """Each branch by its own network, in a pass of its own."""
    good, bad = denoiser(RING, HALVES[0]), denoiser(BLURRED, BLURRED)
    conds = {"cond": told(1, 6), "weak": told(0, 6)}
    found = build({"kind": "autoguidance", "weak": "x", "scale": 2.5}, "mix")(branches(good, conds, (), {"weak": bad}))
    x, level = points(t), PROCESS.at(t)
    alpha, sigma, _ = level.floats
    cond, weak = HALVES[0].mean(x, alpha, sigma), BLURRED.mean(x, alpha, sigma)
    torch.testing.assert_close(found(x, level).x0, weak + 2.5 * (cond - weak), rtol=1e-9, atol=1e-9)
    assert (good.network.passes, bad.network.passes) == ([6], [6])


def test_three_branches_of_one_denoiser_and_one_of_another() -> None:
    """A mix may ask for branches in any order; those of the denoiser itself still share a pass, and a name keeps its estimate."""
    good, bad = denoiser(RING, *HALVES), denoiser(BLURRED)
    ask = branches(good, {"a": told(0, 6), "b": told(1, 6), "c": told(2, 6), "weak": None}, (), {"weak": bad})
    x, level = points(0.4), PROCESS.at(0.4)
    alpha, sigma, _ = level.floats
    found = ask(x, level, ("weak", "c", "a", "b"))
    for name, mixture in {"a": RING, "b": HALVES[0], "c": HALVES[1], "weak": BLURRED}.items():
        torch.testing.assert_close(found[name].x0, mixture.mean(x, alpha, sigma), rtol=1e-9, atol=1e-9)
    assert (good.network.passes, bad.network.passes) == ([18], [6])


def given(**x0: Tensor) -> tuple[Branches, list[tuple[str, ...]]]:
    """Branches of known estimates, and a note of what was asked."""
    asked: list[tuple[str, ...]] = []

    def ask(x: Tensor, level: Level, names: tuple[str, ...]) -> Mapping[str, Estimate]:
        asked.append(names)
        return {name: Estimate(x0[name]) for name in names}

    return ask, asked


def random(seed: int) -> Tensor:
    return torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def perpendicular(ask: Branches, **fields: object) -> Tensor:
    return build({"kind": "perpendicular", **fields}, "mix")(ask)(random(9), PROCESS.at(0.5)).x0


def test_a_negative_takes_nothing_of_the_prompt() -> None:
    """Along the prompt's direction the guidance is as long as without the negative, and across it, it leaves the negative."""
    cond, null, negative = random(0), random(1), random(2)
    ask, asked = given(cond=cond, null=null, negative=negative)
    p, n = cond - null, negative - null
    moved = (perpendicular(ask, scale=3.0, weight=0.7) - null) / 3
    q = n - p * (dot(n, p) / dot(p, p)).view(-1, 1, 1, 1)
    torch.testing.assert_close(dot(q, p), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(dot(moved, p), dot(p, p))
    torch.testing.assert_close(dot(moved, q), -0.7 * dot(q, q))
    torch.testing.assert_close(moved, p - 0.7 * q)
    assert asked == [("cond", "null", "negative")]


def test_it_is_the_same_in_the_noise() -> None:
    """The paper's formula, in eps."""
    cond, null, negative = random(0), random(1), random(2)
    x, level = random(9), PROCESS.at(0.5)
    alpha, sigma, _ = level.floats
    e = {k: (x - alpha * v) / sigma for k, v in {"cond": cond, "null": null, "negative": negative}.items()}
    p, n = e["cond"] - e["null"], e["negative"] - e["null"]
    eps = e["null"] + 2 * (p - (n - p * (dot(n, p) / dot(p, p)).view(-1, 1, 1, 1)))
    ask, _ = given(cond=cond, null=null, negative=negative)
    torch.testing.assert_close(perpendicular(ask, scale=2.0), (x - sigma * eps) / alpha)


def test_an_overlapping_and_an_empty_negative_do_nothing() -> None:
    cond, null = random(0), random(1)
    plain = build({"kind": "cfg", "scale": 3.0}, "mix")(given(cond=cond, null=null)[0])(random(9), PROCESS.at(0.5)).x0
    for negative in (null, cond, null + 0.4 * (cond - null), null - 2 * (cond - null)):
        found = perpendicular(given(cond=cond, null=null, negative=negative)[0], scale=3.0)
        torch.testing.assert_close(found, plain, rtol=1e-10, atol=1e-10)
    ask, asked = given(cond=cond, null=null)
    assert torch.equal(perpendicular(ask, scale=3.0, weight=0.0), plain)
    assert asked == [("cond", "null")]  # nobody is asked in vain


def test_further_negatives_add_up() -> None:
    x0 = {"cond": random(0), "null": random(1), "negative": random(2), "negative 2": random(3)}
    both = perpendicular(given(**x0)[0], scale=2.0, further=["anything"])
    one = perpendicular(given(**x0)[0], scale=2.0)
    other = perpendicular(given(**x0 | {"negative": x0["negative 2"]})[0], scale=2.0)
    plain = perpendicular(given(**x0)[0], scale=2.0, weight=0.0)
    torch.testing.assert_close(both - plain, (one - plain) + (other - plain))


def test_who_is_told_what() -> None:
    mix = build({"kind": "perpendicular", "further": ["blurry"]}, "mix")
    assert mix.words("a cat", "a dog") == {"cond": "a cat", "null": "", "negative": "a dog", "negative 2": "blurry"}
    assert tuple(mix.words("a cat", "a dog")) == mix.names
    assert build("cfg", "mix").words("a cat", "a dog") == {"cond": "a cat", "null": "a dog"}
    weak = build({"kind": "autoguidance", "weak": "early:raw"}, "mix")
    assert weak.words("a cat", "a dog") == {"cond": "a cat", "weak": "a cat"} and weak.others == {"weak": "early:raw"}


# What is asked of every mix and every bend that there is, also of those to come.
VANISHING = {"none": {}, "cfg": {"scale": 1.0}, "autoguidance": {"scale": 1.0}, "perpendicular": {"scale": 1.0, "weight": 0.0}}
STILL = {"threshold": {"bound": 1e9}, "classifier": {"scale": 0.0}}
MIXES, BENDS = list(kinds("mix")), list(kinds("bend"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    """A weak model, one that cannot be it, and a classifier, on disk: what a kind needs beyond its defaults."""
    folder: Path = tmp_path_factory.mktemp("guides")
    save(folder / "weak.safetensors", small.model(seed=1))
    save(folder / "bare.safetensors", small.model(labelled=False, seed=2))
    save(folder / "flow.safetensors", small.model(process="flow"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NoisyClassifierSpec(names=small.CLASSES, widths=(8, 8)).build()
    save_classifier(folder / "eye.safetensors", network)
    return {
        "autoguidance": {"weak": str(folder / "weak.safetensors")},
        "classifier": {"classifier": str(folder / "eye.safetensors")},
        "bare": {"weak": str(folder / "bare.safetensors")},
        "flow": {"weak": str(folder / "flow.safetensors")},
    }


def pictures(model: Model, **fields: object) -> Tensor:
    asked = Request.model_validate({"prompt": ["bag", "shoe"], "count": 2, "seed": 5, "mix": "none", "steps": 4, **fields})
    return torch.cat([e.pictures for e in generate(model, asked) if isinstance(e, Finished)])


@pytest.mark.parametrize("family, kind", [("mix", k) for k in MIXES] + [("bend", k) for k in BENDS])
def test_every_guidance_is_its_description(files: dict[str, dict[str, object]], family: str, kind: str) -> None:
    """Through JSON and back; the same pictures each time, alone as in a batch, and it moves the picture."""
    spec = parse({"kind": kind, **files.get(kind, {})}, family)
    assert parse(json.loads(json.dumps(describe(spec))), family) == spec
    model = small.model()
    asked = {"mix": describe(spec)} if family == "mix" else {"bends": [describe(spec)]}
    first = pictures(model, **asked)
    assert first.shape == (4, 1, 8, 8) and first.dtype == torch.float32
    assert torch.equal(first, pictures(model, **asked))
    assert float((first - pictures(model, micro_batch=1, **asked)).abs().max()) < 1e-4
    if kind != "none":
        assert float((first - pictures(model)).abs().max()) > 1e-3


@pytest.mark.parametrize("family, kind", [("mix", k) for k in MIXES] + [("bend", k) for k in BENDS])
def test_every_guidance_can_be_none(files: dict[str, dict[str, object]], family: str, kind: str) -> None:
    """Scale 1 (of a bend 0) is no guidance: the conditional model, to the last bit."""
    fields = (VANISHING if family == "mix" else STILL)[kind]
    spec = {"kind": kind, **files.get(kind, {}), **fields}
    model = small.model()
    assert torch.equal(pictures(model, **({"mix": spec} if family == "mix" else {"bends": [spec]})), pictures(model))


@pytest.mark.parametrize("kind", MIXES)
def test_every_mix_keeps_the_shape_and_the_digits(files: dict[str, dict[str, object]], kind: str) -> None:
    mix = parse({"kind": kind, **files.get(kind, {})}, "mix")
    assert isinstance(mix, Mix)
    for dtype in (torch.float32, torch.float64):
        x0 = {name: random(i).to(dtype) for i, name in enumerate(mix.names)}
        found = mix(given(**x0)[0])(random(9).to(dtype), PROCESS.at(0.5))
        assert found.x0.dtype == dtype and found.x0.shape == (3, 2, 4, 4)
        assert all(torch.equal(v, x0[name]) for name, v in found.parts.items())


@pytest.mark.parametrize("kind", BENDS)
def test_every_bend_keeps_the_shape_and_the_digits(files: dict[str, dict[str, object]], kind: str) -> None:
    bend = parse({"kind": kind, **files.get(kind, {})}, "bend")
    assert isinstance(bend, Bend)
    bound: Callable = bend.bind(Assets(), ["bag", "shoe", "bag"])
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    fraction = torch.full_like(x, 0.25)
    for dtype in (torch.float32, torch.float64):
        found = bound(lambda x, level: Estimate(0.5 * x, fraction))(x.to(dtype), PROCESS.at(0.5))
        assert found.x0.dtype == dtype and found.x0.shape == x.shape and found.fraction is fraction


def test_a_weak_model_hears_the_prompt_and_may_be_deaf(files: dict[str, dict[str, object]]) -> None:
    """The same prompt goes to both; one without text guides too, and one with text guides a model without."""
    model, weak = small.model(), files["autoguidance"]
    guided = pictures(model, mix={"kind": "autoguidance", **weak})
    assert float((guided - pictures(model, mix={"kind": "autoguidance", **files["bare"]})).abs().max()) > 1e-3
    bare = small.model(labelled=False, seed=2)
    pair = [
        pictures(bare, prompt="", mix={"kind": "autoguidance", **files[name], "scale": 2.0})
        for name in ("autoguidance", "bare")
    ]
    assert torch.isfinite(pair[0]).all() and float((pair[0] - pictures(bare, prompt="")).abs().max()) > 1e-3
    torch.testing.assert_close(pair[1], pictures(bare, prompt=""), rtol=1e-4, atol=1e-5)  # it is its own weak model here


def test_another_process_is_refused(files: dict[str, dict[str, object]]) -> None:
    with pytest.raises(SpecError, match="the model of branch 'weak' has another process"):
        pictures(small.model(), mix={"kind": "autoguidance", **files["flow"]})
    with pytest.raises(SpecError, match=r"no model 'fashion-mnits'.*did you mean 'fashion-mnist'"):
        pictures(small.model(), mix={"kind": "autoguidance", "weak": "fashion-mnits"})


def test_a_codec_that_learned_other_latents_is_refused(tmp_path: Path) -> None:
    """One architecture, other weights: the two would not mean the same by a latent. A decoder of its own is no harm."""

    def latent(seed: int) -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            spec = small.spec().model_copy(update={"codec": KLSpec(pictures=1, latents=1, widths=(8,), groups=4)})
            return Model(spec).eval()

    model = latent(0)
    own, other = latent(0), latent(1)
    own.codec.decoder.load_state_dict(other.codec.decoder.state_dict())
    for name, peer in (("own", own), ("other", other)):
        save(tmp_path / f"{name}.safetensors", peer)
    mix = {"kind": "autoguidance", "weak": str(tmp_path / "own.safetensors")}
    assert torch.isfinite(pictures(model, mix=mix)).all()
    with pytest.raises(SpecError, match="the model of branch 'weak' has a codec of other weights"):
        pictures(model, mix={**mix, "weak": str(tmp_path / "other.safetensors")})


def test_negatives_through_a_request() -> None:
    """The negative prompt reaches its own branch, and an empty one is classifier-free guidance."""
    model = small.model()
    plain = pictures(model, mix={"kind": "cfg", "scale": 3.0})
    empty = pictures(model, mix={"kind": "perpendicular", "scale": 3.0})
    torch.testing.assert_close(empty, plain, rtol=1e-4, atol=1e-4)
    shirt = pictures(model, mix={"kind": "perpendicular", "scale": 3.0}, negative="shirt")
    assert float((shirt - plain).abs().max()) > 1e-2
    further = pictures(model, mix={"kind": "perpendicular", "scale": 3.0, "further": ["shirt"]})
    torch.testing.assert_close(further, shirt, rtol=1e-4, atol=1e-4)
