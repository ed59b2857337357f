"""Classifier guidance: exact on the oracle, with every sampler and process; the network, its file, its training; what ships works."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from safelight import model as files
from safelight.assets import Assets
from safelight.data import load as gather
from safelight.data import memory
from safelight.data.idx import FASHION
from safelight.denoise import Denoise, Estimate
from safelight.evaluate import classifier as judge
from safelight.generate import Finished, generate
from safelight.guide.classifier import ClassifierGuidance
from safelight.model import ModelSpec
from safelight.nn.classifier import NoisyClassifier, NoisyClassifierSpec, load, save
from safelight.noise import Noise
from safelight.predict import V
from safelight.process import Level
from safelight.recipes import recipe
from safelight.sample import trajectory
from safelight.spec import SpecError, build, describe, kinds
from safelight.task import Request
from safelight.text.label import LabelSpec
from safelight.train import Every, Plan, train
from safelight.train.classify import Classify, recognised
from safelight.train.objective import Batch
from safelight.train.run import fresh
from tests import small
from tests.oracle import Mixture, final

RING = Mixture.ring(8)
CLASSES = 2
PARTS = [Mixture(RING.w[k::2] / RING.w[k::2].sum(), RING.m[k::2], RING.u[k::2], RING.l[k::2]) for k in range(CLASSES)]
SHIPPED = "fashion-mnist-noisy-classifier"


def exact(x: Tensor, level: Level) -> Tensor:
    """(n, CLASSES) log p(x_t, y) of the ring whose component k is of class k mod 2: all that Bayes needs."""
    alpha, sigma = level.alpha, level.sigma
    var = alpha**2 * RING.l + sigma**2  # (K, d)
    off = torch.einsum("nkd,kde->nke", x[:, None] - alpha * RING.m, RING.u)
    log_p = RING.w.log() - 0.5 * (off.square() / var + var.log()).sum(-1)  # (n, K)
    return torch.stack([log_p[:, k::2].logsumexp(1) for k in range(CLASSES)], 1)


def steered(target: Tensor, **fields: object) -> Denoise:
    return build({"kind": "classifier", **fields}, "bend").steer(RING.denoise, exact, target)


def conditional(target: Tensor) -> Denoise:
    def denoise(x: Tensor, level: Level) -> Estimate:
        each = torch.stack([part.denoise(x, level).x0 for part in PARTS])
        return Estimate(each[target, torch.arange(len(x))])

    return denoise


@pytest.mark.parametrize("process", ["cosine", "flow", "edm", {"kind": "linear", "T": 50}], ids=str)
def test_at_scale_one_it_is_the_conditional_denoiser(process: str | dict[str, object]) -> None:
    """Bayes and Tweedie: the unconditional estimate plus the classifier's push is E[x0 | x_t, y], at every level of every process."""
    process = build(process, "process")
    target = torch.arange(20) % 2
    for t in (0.02, 0.3, 0.7, 0.98):
        level = process.at(t)
        x = RING.noised(20, float(level.alpha), float(level.sigma), seed=1)
        found = steered(target)(x, level)
        torch.testing.assert_close(found.x0, conditional(target)(x, level).x0, rtol=1e-7, atol=1e-8)
        assert torch.equal(found.parts["unsteered"], RING.denoise(x, level).x0)


@pytest.mark.parametrize("scale", [2.0, 5.0])
def test_at_any_scale_it_is_classifier_free_guidance(scale: float) -> None:
    """Both are the unconditional estimate and `scale` times the way to the conditional one, when both are exact."""
    target, level = torch.arange(20) % 2, build("cosine", "process").at(0.5)
    x = RING.noised(20, float(level.alpha), float(level.sigma), seed=1)
    each = {"cond": conditional(target), "null": RING.denoise}
    mix = build({"kind": "cfg", "scale": scale}, "mix")(lambda x, level, names: {n: each[n](x, level) for n in names})
    torch.testing.assert_close(steered(target, scale=scale)(x, level).x0, mix(x, level).x0, rtol=1e-7, atol=1e-8)


def test_pure_noise_has_a_limit() -> None:
    """alpha = 0: the gradient is 0 and its weight infinite; what is meant is E[x0 | y]."""
    x = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 0, 1])
    for process in ("flow", "cosine"):
        found = steered(target)(x, build(process, "process").at(1.0)).x0
        expected = torch.stack([PARTS[k].w @ PARTS[k].m for k in target.tolist()])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", list(kinds("sampler")))
def test_every_sampler_is_steered(kind: str) -> None:
    """A run under guidance is the run of the conditional model, step by step, in inference mode as pictures are made."""
    process, sampler = build("cosine", "process"), build(kind, "sampler")
    levels = process.at(build("uniform", "grid")(process, 6))
    target = torch.arange(8) % 2
    x = torch.randn(8, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def run(denoise: Denoise) -> Tensor:
        full = lambda x, level: denoise(x, level)._replace(fraction=torch.full_like(x, 0.5))  # noqa: E731
        with torch.inference_mode():
            return final(trajectory(full, x.clone(), levels, sampler, Noise(0))).x

    torch.testing.assert_close(run(steered(target)), run(conditional(target)), rtol=1e-4, atol=1e-5)


def test_scale_and_interval() -> None:
    process, target = build("cosine", "process"), torch.zeros(5, dtype=torch.int64)
    for t in (0.1, 0.5, 0.9):
        level = process.at(t)
        x = RING.noised(5, float(level.alpha), float(level.sigma), seed=4)
        plain, once = RING.denoise(x, level).x0, steered(target)(x, level).x0
        twice = steered(target, scale={"kind": "linear", "noisy": 3, "clean": 1}, interval=[0.3, 0.7])(x, level).x0
        torch.testing.assert_close(twice, plain + (2 * (once - plain) if t == 0.5 else 0), rtol=1e-9, atol=1e-12)


def eye(**fields: object) -> NoisyClassifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = NoisyClassifierSpec(names=small.CLASSES, widths=(8, 16), **fields).build()  # type: ignore[arg-type]
        for p in network.parameters():
            torch.nn.init.normal_(p, std=0.2)
    return network.eval()


def test_classes_come_from_the_prompts_or_are_said(tmp_path: Path) -> None:
    save(tmp_path / "eye.safetensors", eye(), dtype=torch.float32)
    spec = {"kind": "classifier", "classifier": str(tmp_path / "eye.safetensors"), "scale": 2.0}
    x, level = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)), build("cosine", "process").at(0.6)

    def moved(prompts: list[str], **fields: object) -> Tensor:
        bound = build({**spec, **fields}, "bend").bind(Assets(), prompts)
        return bound(lambda x, level: Estimate(torch.zeros_like(x)))(x, level).x0

    seen = x.clone().requires_grad_(True)
    log_p = eye().logits(seen, level).log_softmax(1)
    (slope,) = torch.autograd.grad(log_p[0, 2] + log_p[1, 0], seen)
    torch.testing.assert_close(moved(["bag", "shirt"]), slope * float(2 * level.sigma**2 / level.alpha))
    torch.testing.assert_close(moved(["", "shirt"], target="bag")[0], moved(["bag", ""], target="bag")[0])
    with pytest.raises(SpecError, match=r"^bends: the classifier '.*' knows no class 'shrit'; did you mean 'shirt'\?"):
        moved(["bag", "shrit"])
    with pytest.raises(
        SpecError, match=r"^bends: guidance by a classifier needs a class: set target, or give a prompt \(shirt, "
    ):
        moved(["bag", ""])
    with pytest.raises(SpecError, match="must be bound"):
        build(spec, "bend")(RING.denoise)
    with pytest.raises(SpecError, match="no model 'nobody'"):
        moved(["bag"], classifier="nobody")


def test_logits_know_no_process_and_vanish_with_the_picture() -> None:
    """The same sigma/alpha is the same question, however large x_t is; the logits go like alpha, and their push stays finite."""
    network = eye().double()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    preserving, flow, exploding = (build(kind, "process") for kind in ("cosine", "flow", "edm"))
    for t in (0.2, 0.5, 0.9):
        level = preserving.at(t)
        for other in (flow, exploding):
            same = other.at(other.time(level.logsnr))
            grown = float(same.alpha / level.alpha)
            torch.testing.assert_close(network.logits(grown * x, same), network.logits(x, level), rtol=1e-5, atol=1e-6)
    for t, share in ((1.0, 0.0), (0.0, 1.0)):
        raw = network(x, torch.tensor([1000.0 * t])).F
        torch.testing.assert_close(network.logits(x, preserving.at(t)), share * raw, rtol=1e-5, atol=1e-9)
    bend = ClassifierGuidance(scale=1.0, target="bag")
    shift = [
        bend.steer(lambda x, level: Estimate(torch.zeros_like(x)), network.logits, torch.zeros(3, dtype=torch.int64))(x, v).x0
        for v in (preserving.at(1 - 1e-6), preserving.at(1.0), flow.at(1.0))
    ]
    assert float(shift[0].abs().max()) > 1e-3
    torch.testing.assert_close(shift[1], shift[0], rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(shift[2], shift[1], rtol=1e-4, atol=1e-6)


def test_levels_of_a_batch_and_sizes() -> None:
    """A level a picture is each picture at its level; any size goes in; other latents are refused."""
    network, process = eye(), build("cosine", "process")
    x = torch.randn(3, 1, 13, 9, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    each = torch.cat([network.logits(x[i : i + 1], process.at(float(t[i]))) for i in range(3)])
    torch.testing.assert_close(network.logits(x, process.at(t)), each)
    with pytest.raises(SpecError, match=r"sees \(B, 1, H, W\), not \(3, 4, 8, 8\)"):
        network.logits(torch.zeros(3, 4, 8, 8), process.at(0.5))
    with pytest.raises(SpecError, match="it makes none"):
        network.bind(None)


def test_the_file(tmp_path: Path) -> None:
    path = tmp_path / "eye.safetensors"
    network, x, level = eye(), torch.randn(2, 1, 8, 8), build("cosine", "process").at(0.4)
    save(path, network, {"recipe": "none"}, dtype=torch.float32)
    again = load(path)
    assert describe(again) == describe(network) and again.lineage == {"recipe": "none"} and not again.training
    assert torch.equal(again.logits(x, level), network.logits(x, level))
    save(path, network)
    torch.testing.assert_close(load(path).logits(x, level), network.logits(x, level), rtol=1e-2, atol=1e-2)
    for source, line in (
        (tmp_path / "none.safetensors", "there is no classifier; train one with"),
        (files.locate("fashion-mnist"), "no classifier of noisy pictures of format 1"),
        (files.locate("fashion-mnist-classifier"), "no classifier of noisy pictures of format 1"),
    ):
        with pytest.raises(SpecError, match=line):
            load(source)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SpecError, match="not a readable"):
        load(path)


def test_a_trained_run_is_a_classifier(tmp_path: Path) -> None:
    """Cross-entropy on noisy pictures through `train`: it learns bright from dark, less surely the noisier; its checkpoint guides."""
    names = ("dark", "bright")
    spec = ModelSpec(
        network=NoisyClassifierSpec(names=names, widths=(8, 16)),
        process=build("cosine", "process"),
        parameterization=V(),
        text=LabelSpec(names=names, width=1),
        channels=1,
        size=(8, 8),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = spec.build()
    shade = torch.arange(128) % 2
    grain = torch.randn(128, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    values = (torch.where(shade[:, None, None, None] == 1, 0.1, -0.1) + 0.1 * grain).clamp(-1, 1)
    pixels = ((values + 1) * 127.5).byte().movedim(1, 3).numpy()
    data = gather(memory(pixels, [names[k] for k in shade.tolist()], [f"{i:03d}" for i in range(128)]))
    plan = Plan(
        batch=32, steps=80, optimizer={"kind": "adamw", "lr": 5e-3}, averages={}, every=Every(log=0, held_out=40, save=0)
    )  # type: ignore[arg-type]
    reports = list(train(model, data, plan, objective=Classify(), held_out=data))
    judged = reports[-1].judged
    assert judged is not None and judged.trivial is None
    assert judged.buckets[0] < 0.05 < judged.buckets[-1] < math.log(2) + 0.1
    network = model.denoiser.network
    assert recognised(network, values, shade, spec.process, 0.1) > 0.95  # type: ignore[arg-type]
    assert 0.3 < recognised(network, values, shade, spec.process, 1.0) < 0.7  # type: ignore[arg-type]
    files.save(tmp_path / "model.safetensors", model)
    x, level = values[:2], spec.process.at(0.5)
    torch.testing.assert_close(load(files.locate(tmp_path)).logits(x, level), network.logits(x, level))  # type: ignore[operator]


def test_the_objective_is_cross_entropy_and_trains_the_network_alone() -> None:
    found = recipe(SHIPPED)
    model, objective = fresh(found), found.objective
    assert isinstance(objective, Classify)
    (player,) = objective.prepare(model)
    assert {name.split(".")[1] for name, _ in player.parameters} == {"network"}
    x0 = torch.rand(6, 1, 28, 28) * 2 - 1
    draws = objective.draw(model, x0, 0, 0)
    tokens = torch.tensor([[0], [3], [9], [5], [5], [1]])
    loss = player.loss(model, Batch(x0, tokens), draws)
    process, network = model.spec.process, model.denoiser.network
    logits = network.logits(process.add_noise(x0, draws.eps, draws.t), process.at(draws.t))  # type: ignore[operator]
    torch.testing.assert_close(loss, -logits.log_softmax(1).gather(1, tokens)[:, 0])
    loss.mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for _, p in player.parameters)


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(SpecError, match="trains a network 'classifier', not 'dit'"):
        Classify().prepare(small.model())
    found = recipe(SHIPPED).model
    other = found.model_copy(update={"text": LabelSpec(names=("a", "b"), width=1)})  # type: ignore[union-attr]
    with pytest.raises(SpecError, match=r"set model\.text\.names to network\.names"):
        Classify().prepare(other.build())
    with pytest.raises(SpecError, match="needs labels"):
        Classify().loss(found.build(), Batch(torch.zeros(1, 1, 28, 28)), None)  # type: ignore[arg-type]


def test_what_ships() -> None:
    """Small, of the ten classes, and better than guessing wherever something is left of the picture."""
    path = files.locate(SHIPPED)
    network = load(path)
    assert path.stat().st_size <= 1_000_000 and network.spec.names == FASHION
    assert describe(network) == describe(recipe(SHIPPED).model.network)  # type: ignore[union-attr]
    right = {float(t): share for t, share in network.lineage["recognised"].items()}
    card = path.with_suffix(".md").read_text()
    for t, share in right.items():
        assert f"| {t:g} | " in card and f"| {share:.1%} |".replace("%", " %") in card
    assert right[0.0] > 0.85 and right[0.5] > 0.8 and right[0.9] > 0.4 and right[1.0] == pytest.approx(0.1, abs=0.02)
    assert SHIPPED not in files.embedded()  # it makes no pictures


def test_the_shipped_classifier_steers_the_shipped_model() -> None:
    """With the null prompt a picture is of any class; steered, the independent judge sees the class that was asked for."""
    model, assets, look = files.load("fashion-mnist"), Assets(), judge.load()
    classes = ("trouser", "sandal", "bag", "ankle boot")

    def share(**bend: object) -> float:
        right = []
        for name in classes:
            bends = [{"kind": "classifier", "target": name, **bend}] if bend else []
            asked = Request.model_validate({"prompt": "", "count": 4, "steps": 8, "mix": "none", "bends": bends})
            made = torch.cat([e.pictures for e in generate(model, asked, assets=assets) if isinstance(e, Finished)])
            right += (look.look(made.clamp(-1, 1)).logits.argmax(1) == FASHION.index(name)).tolist()
        return sum(right) / len(right)

    assert share() <= 0.4  # every class gets the same four pictures
    assert share(scale=6.0) >= 0.85
