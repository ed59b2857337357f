"""Training codecs through `train`: the loss by hand, who learns, two players, resuming, and that pictures come back better."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from safelight.codec.kl import KLSpec
from safelight.codec.vq import VQSpec
from safelight.data import Pictures, load, memory, to_unit
from safelight.spec import SpecError, build, describe
from safelight.text.clip import CLIPTextSpec
from safelight.text.joint import JointSpec, save
from safelight.train import Every, Plan, Train, begin, checkpoint, fit, train
from safelight.train.autoencode import Autoencode, fidelity
from safelight.train.objective import Batch
from tests.train import tiny

KL = KLSpec(latents=4, widths=(16, 32), blocks=1)
VQ = VQSpec(latents=4, widths=(16, 32), codes=32, decay=0.9)


def model(codec: Any = KL):
    network = tiny.network(0.0, cond=0).model_copy(update={"channels": codec.latents})
    return tiny.model(codec=codec, channels=3, size=(16, 16), text=None, network=network)


def pictures(n: int = 96, seed: int = 0) -> Pictures:
    """Discs of one colour on grounds of another."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:16, :16]
    images = np.empty((n, 16, 16, 3), np.uint8)
    for image in images:
        image[:] = random.integers(0, 256, 3)
        cy, cx, r = *random.uniform(4, 12, 2), random.uniform(2, 5)
        image[(y - cy) ** 2 + (x - cx) ** 2 < r * r] = random.integers(0, 256, 3)
    return load(memory(images, [""] * n, [f"{seed}-{i:04d}" for i in range(n)]))


def plan(**fields: Any) -> Plan:
    given: dict[str, Any] = {
        "batch": 16,
        "steps": 4,
        "optimizer": {"kind": "adamw", "lr": 2e-3},
        "every": Every(log=2, held_out=0, save=2),
    }
    return Plan(**(given | fields))


def units(data: Pictures) -> torch.Tensor:
    return to_unit(data.batch(torch.arange(data.n)))


def test_the_loss_is_its_formula():
    made = model()
    x = units(pictures(3))
    objective = Autoencode(l1=0.7, l2=0.3, gradient=0.5, order=0.01)
    draws = objective.draw(made, x, seed=1, step=5)
    (player,) = objective.prepare(made)
    found = player.loss(made, Batch(x), draws)
    again, penalty = made.codec(x, draws.eps)
    for i in range(3):
        e = again[i] - x[i]
        across, down = (e[:, :, 1:] - e[:, :, :-1]).abs().mean(), (e[:, 1:] - e[:, :-1]).abs().mean()
        expected = 0.7 * e.abs().mean() + 0.3 * e.square().mean() + 0.5 * (across + down) + 0.01 * penalty[i]
        torch.testing.assert_close(found[i], expected)
    assert draws.eps.shape == (3, 4, 4, 4)
    assert torch.equal(draws.eps, objective.draw(made, x, seed=1, step=5).eps)
    assert not torch.equal(draws.eps, objective.draw(made, x, seed=1, step=6).eps)


@pytest.mark.parametrize("codec", [KL, VQ], ids=["kl", "vq"])
def test_pictures_come_back_better_and_only_the_codec_learns(codec):
    made, data = model(codec), pictures()
    test = units(pictures(32, seed=9))
    before = tiny.weights(made)
    first = fidelity(made.codec.eval(), test).psnr.mean()
    brisk = plan(steps=150, schedule={"kind": "cosine", "warmup": 10})
    list(train(made, data, brisk, objective=Autoencode(order=1e-3 if codec is KL else 0.25)))
    after = fidelity(made.codec.eval(), test)
    flat = (
        10 * (4 / (test - test.mean((2, 3), keepdim=True)).square().mean((1, 2, 3))).log10().mean()
    )  # each picture's mean colour
    assert after.psnr.mean() > (flat + 0.5 if codec is KL else first + 7)  # 32 codes are few for random colours
    moved = {k for k, v in made.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and all(k.startswith("codec.") for k in moved)
    assert (
        0.7 < made.codec.encode(units(data)).std() < 1.4
    )  # the scale followed the training, at a constant rate a little behind
    made.codec.calibrate([units(data)])
    assert made.codec.encode(units(data)).std().item() == pytest.approx(1, abs=0.01)
    if codec is VQ:
        assert made.codec.perplexity > 8


def test_two_players_take_turns():
    made, data = model(), pictures(32)
    objective = Autoencode(adversarial=0.1, critic=(8, 16), warmup=2)
    steady = plan(optimizer={"kind": "adam"})  # no decay: a weight without a gradient stands still
    state = begin(made, steady, objective)
    codec, critic = state.players
    assert all(name.startswith("codec.") for name, _ in codec.parameters)
    assert all(name.startswith("critic.") for name, _ in critic.parameters)
    start = [p.detach().clone() for _, p in critic.parameters]
    moved = []
    for _ in train(made, data, steady, state, objective=objective):
        moved.append(any(not torch.equal(p, s) for (_, p), s in zip(critic.parameters, start, strict=True)))
    assert moved == [False, False, True, True]  # silent until the warm-up is over
    x = units(data)[:4]
    draws = objective.draw(made, x, 0, 10)
    judge = critic.loss.critic
    again = made.codec.decode(made.codec.encode(x, draws.eps)).detach()
    expected = F.relu(1 - judge(x)).flatten(1).mean(1) + F.relu(1 + judge(again)).flatten(1).mean(1)
    torch.testing.assert_close(critic.loss(made, Batch(x), draws), expected, rtol=1e-4, atol=1e-5)
    plain = Autoencode().prepare(made)[0].loss(made, Batch(x), draws)
    again, _ = made.codec(x, draws.eps)
    torch.testing.assert_close(
        codec.loss(made, Batch(x), draws), plain - 0.1 * judge(again).flatten(1).mean(1), rtol=1e-4, atol=1e-5
    )
    early = objective.draw(made, x, 0, 1)
    assert critic.loss(made, Batch(x), early).eq(0).all()


def test_a_trained_critic_tells_pictures_from_their_blurs():
    made, data = model(), pictures(64)
    objective = Autoencode(adversarial=1e-6, critic=(8, 16), warmup=0)  # nobody tries to deceive it
    brisk = plan(steps=100)
    state = begin(made, brisk, objective)
    list(train(made, data, brisk, state, objective=objective))
    judge, x = state.players[1].loss.critic, units(pictures(32, seed=5))
    with torch.no_grad():
        true, false = (judge(y).flatten(1).mean(1) for y in (x, made.codec.decode(made.codec.encode(x))))
    assert (true > false).float().mean() > 0.8  # of unseen pictures


@pytest.mark.parametrize("codec", [KL, VQ], ids=["kl", "vq"])
def test_a_resumed_run_is_the_uninterrupted_one(codec, tmp_path):
    data, objective = pictures(48), Autoencode(adversarial=0.1, critic=(8,), warmup=1)
    whole = model(codec)
    state = begin(whole, plan(), objective)
    for report in train(whole, data, plan(), state, objective=objective):
        if report.step == 2:
            checkpoint.write(tmp_path, whole, state, keep=2, lineage={})
    path, _ = checkpoint.newest(tmp_path)
    twin = model(codec)
    resumed = checkpoint.read(path, twin, plan(), objective, scaling=False)
    list(train(twin, data, plan(), resumed, objective=objective))
    assert tiny.same(tiny.weights(whole), tiny.weights(twin))
    assert tiny.same(dict(state.tensors()), dict(resumed.tensors()))
    assert tiny.same(state.averages.tensors("ema"), resumed.averages.tensors("ema"))
    assert all(name.startswith("codec.") for name in state.averages.tensors("ema"))


def test_it_is_judged_by_held_out_pictures():
    made = model()
    reports = list(
        train(made, pictures(), plan(every=Every(log=0, held_out=4, save=0)), objective=Autoencode(), held_out=pictures(32, 3))
    )
    judged = reports[-1].judged
    snapshot = made  # the raw weights at the end; the judged ones are the average's
    assert judged is not None and 0 < judged.loss < 4 and judged.seen > 0
    assert fidelity(snapshot.codec.eval(), units(pictures(4))).pictures.shape == (4, 3, 16, 16)


def test_the_perceptual_term_looks_through_a_trained_tower(tmp_path):
    torch.manual_seed(0)
    spec = JointSpec(
        text=CLIPTextSpec(width=8, layers=1, heads=1, length=8), size=(16, 16), patch=4, width=16, layers=2, heads=2, space=4
    )
    joint = spec.build().eval()
    save(tmp_path / "eye.safetensors", joint, dtype=torch.float32)
    made, x = model(), units(pictures(3))
    objective = Autoencode(perceptual=0.5, eye=str(tmp_path / "eye.safetensors"))
    draws = objective.draw(made, x, 0, 0)
    found = objective.prepare(made)[0].loss(made, Batch(x), draws)
    plain = Autoencode().prepare(made)[0].loss(made, Batch(x), draws)
    again, _ = made.codec(x, draws.eps)
    layers = zip(joint.pair.image.features(again), joint.pair.image.features(x), strict=True)
    distance = torch.stack([(2 - 2 * F.cosine_similarity(a, b, dim=-1)).mean(1) for a, b in layers]).mean(0)
    torch.testing.assert_close(found - plain, 0.5 * distance, rtol=1e-3, atol=1e-5)
    found.sum().backward()
    assert made.codec.decoder.out.weight.grad is not None


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(SpecError, match="'pixels' has nothing to learn: give the model a codec kl or vq"):
        Autoencode().prepare(tiny.model())
    with pytest.raises(SpecError, match="needs the file of a joint model"):
        Autoencode(perceptual=1.0).prepare(model())
    with pytest.raises(SpecError, match="no file nowhere.safetensors"):
        Autoencode(perceptual=1.0, eye="nowhere.safetensors").prepare(model())
    assert build(describe(Autoencode(adversarial=0.5))) == Autoencode(adversarial=0.5)


def test_an_exact_copy_counts_a_hundred_decibels():
    x = torch.rand(3, 3, 8, 8) * 2 - 1
    identity = tiny.model().codec
    torch.testing.assert_close(fidelity(identity, x).psnr, torch.full((3,), 100.0, dtype=torch.float64))
    off = type("Off", (), {"encode": lambda _, x: x, "decode": lambda _, z: z * 0 + (z + 0.02).clamp(-1, 1)})()
    y = torch.zeros(1, 3, 8, 8)
    torch.testing.assert_close(fidelity(off, y).psnr, torch.tensor([40.0], dtype=torch.float64), rtol=1e-4, atol=1e-3)


def test_the_step_compiles_without_a_break():
    made, x = model(), units(pictures(2))
    eps = torch.randn(2, 4, 4, 4)
    for codec in (made.codec, model(VQ).codec):
        compiled = torch.compile(codec.train(), backend="eager", fullgraph=True)
        compiled(x, eps).x.square().mean().backward()


@pytest.mark.parametrize("codec", [KL, VQ], ids=["kl", "vq"])
def test_a_skipped_step_moves_no_buffer(codec):
    """A batch that is not finite leaves no trace in the running scale and the codebook either."""
    made, asked = model(codec), plan(steps=3)
    calls = 0

    def poison(module: Any, given: Any, found: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return found * torch.nan if calls == 2 else found

    made.codec.encoder.register_forward_hook(poison)
    buffers = []
    for report in train(made, pictures(), asked, objective=Autoencode()):
        buffers.append({name: value.clone() for name, value in made.codec.named_buffers()})
        assert len(report.broken) == (report.step == 2)
    assert tiny.same(buffers[0], buffers[1])
    assert not tiny.same(buffers[1], buffers[2])
    assert all(bool(torch.isfinite(value).all()) for value in buffers[2].values())


def test_a_codec_trains_in_a_folder(tmp_path):
    """`fit` tries the objective on what the objective sees: pictures for a codec, not latents."""
    for k in range(20):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"{k:02d}.png")
    recipe = Train(
        name="codec",
        model=model().spec,
        data={"kind": "folder", "path": str(tmp_path)},
        objective=Autoencode(),
        plan=plan(steps=2),
    )
    assert [report.step for report in fit(recipe, tmp_path / "run", device="cpu")] == [1, 2]


def test_a_codec_has_no_trivial_network():
    """The network that always answers 0 says nothing of a codec: it would be the codec's own loss when first judged."""
    asked = plan(steps=4, every=Every(log=0, held_out=2, save=0))
    reports = list(train(model(), pictures(), asked, objective=Autoencode(), held_out=pictures(32, seed=3)))
    judged = [report for report in reports if report.judged is not None]
    assert len(judged) == 2
    assert all(r.judged.trivial is None and "val/trivial" not in r.metrics and "val/loss" in r.metrics for r in judged)
