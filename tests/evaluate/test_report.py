"""One evaluation of pictures whose truth is known: real ones, copies, one class for all, noise."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from safelight.data.pile import memory
from safelight.draw.grid import save as save_picture
from safelight.draw.pixels import to_bytes, to_image
from safelight.evaluate.card import card
from safelight.evaluate.classifier import Classifier, ClassifierSpec
from safelight.evaluate.fit import Fit, fit
from safelight.evaluate.made import Made, folder, make
from safelight.evaluate.real import Labelled, read
from safelight.evaluate.report import Report, classes, evaluate
from safelight.spec import SpecError
from safelight.task import Request
from tests import small

NAMES = ("bar", "column", "square")


def shapes(n: int, seed: int) -> Labelled:
    """A lying bar, a standing one or a square, somewhere and of some brightness, on faint noise."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 40, (n, 1, 10, 10), generator=random)
    labels = torch.arange(n) % 3
    places, lights = torch.randint(0, 7, (n, 2), generator=random), torch.randint(120, 256, (n,), generator=random)
    for i in range(n):
        h, w = ((2, 10), (10, 2), (4, 4))[int(labels[i])]
        top, left = (0 if side == 10 else int(at) for side, at in zip((h, w), places[i], strict=True))
        x[i, 0, top : top + h, left : left + w] = lights[i]
    return Labelled(x.to(torch.uint8), labels, NAMES)


@pytest.fixture(scope="module")
def world() -> tuple[Labelled, Labelled, Classifier]:
    train, test = shapes(900, 0), shapes(600, 1)
    spec = ClassifierSpec(names=NAMES, size=(10, 10), widths=(8, 8), features=16)
    model = list(fit(spec, train.pictures, train.labels, Fit(epochs=4, batch=32, flip=False)))[-1].classifier
    model.lineage = {"name": "shapes"}
    return train, test, model.eval()


def made(real: Labelled, **about: object) -> Made:
    return Made(
        real.pictures,
        tuple(real.names[c] for c in real.labels.tolist()),
        {"source": "folder", "folder": "x", "files": []} | about,
    )


def test_fresh_real_pictures_score_as_the_floor(world: tuple[Labelled, Labelled, Classifier]) -> None:
    train, test, eye = world
    several = [evaluate(made(shapes(300, seed)), train, test, eye).numbers for seed in (2, 3, 4, 5)]
    assert sum(r["frechet"]["value"] for r in several) / 4 < 3 * several[0]["frechet"]["floor"]
    r = several[0]
    assert r["recognised"]["rate"] > 0.97
    assert r["frechet"]["name"] == "FD-shapes"
    assert r["kernel"]["low"] < 0 < r["kernel"]["high"]
    assert r["manifold"]["precision"] == pytest.approx(r["manifold"]["floor"]["precision"], abs=0.08)
    assert r["manifold"]["recall"] == pytest.approx(r["manifold"]["floor"]["recall"], abs=0.08)
    assert r["copies"]["features"]["fraction"] < 0.05
    assert r["copies"]["pixels"]["fraction"] < 0.05


def test_copies_and_noise_and_wrong_prompts_are_called_what_they_are(world: tuple[Labelled, Labelled, Classifier]) -> None:
    train, test, eye = world
    copied = evaluate(made(train.take(torch.arange(300))), train, test, eye)
    assert copied.numbers["copies"]["pixels"]["fraction"] == 1.0
    assert copied.copies.nearest.index.tolist() == list(range(300))
    noise = Labelled(torch.randint(0, 256, (300, 1, 10, 10), dtype=torch.uint8), test.labels[:300], NAMES)
    bad = evaluate(made(noise), train, test, eye).numbers
    assert bad["frechet"]["value"] > 10 * bad["frechet"]["floor"]
    assert bad["kernel"]["low"] > 0
    assert bad["manifold"]["coverage"] < 0.5
    swapped = made(shapes(300, 2))
    swapped = swapped._replace(prompts=tuple({"bar": "column", "column": "bar"}.get(p, p) for p in swapped.prompts))
    r = evaluate(swapped, train, test, eye).numbers["recognised"]
    assert r["rate"] == pytest.approx(1 / 3, abs=0.03)
    assert [row["mistaken_for"] for row in r["classes"][:2]] == ["column", "bar"]


def test_the_result_is_deterministic_json_that_a_card_is_made_of(world: tuple[Labelled, Labelled, Classifier]) -> None:
    train, test, eye = world
    about: dict[str, object] = {
        "source": "generated",
        "model": "abc",
        "weights": "ema",
        "seed": 1,
        "steps": 20,
        "guidance": 1.5,
    }
    about |= {"sampler": "ddim", "grid": "uniform", "mix": "cfg", "torch": "2", "device": "cpu"}
    fakes = made(shapes(300, 2), **about)
    a, b = evaluate(fakes, train, test, eye).numbers, evaluate(fakes, train, test, eye).numbers
    assert {**a, "seconds": 0} == {**b, "seconds": 0}
    back = json.loads(json.dumps(a))
    assert back["extractor"]["hash"] == eye.fingerprint
    for field in ("generated", "train", "test", "resize", "range"):
        assert field in back["pictures"]
    text = card(back)
    for word in (
        "FD-shapes",
        "guidance scale 1.5",
        "20 steps of `ddim`",
        "weights `ema`",
        "seed 1",
        eye.fingerprint,
        "| bar | ",
    ):
        assert word in text, word
    assert "FID" not in text.replace("an FID", "")
    asked = Request(prompt=("shirt",), steps=1, mix={"kind": "cfg", "scale": [1, 4]})
    curved = make(small.model(), asked).about
    assert curved["guidance"] == {"kind": "points", "scales": [1.0, 4.0]}
    assert "guidance scale `points` (scales [1.0, 4.0]), " in card({**back, "made": json.loads(json.dumps(curved))})
    few = evaluate(made(shapes(21, 2)), train, test, ClassifierSpec(names=NAMES, size=(10, 10), features=64).build().eval())
    assert "biased" in few.numbers["frechet"]["warning"]
    assert "Warning" in card(few.numbers)


def test_a_folder_of_pngs_gives_the_same_numbers(world: tuple[Labelled, Labelled, Classifier], tmp_path: Path) -> None:
    train, test, eye = world
    fakes = made(shapes(60, 2))
    for i, (picture, prompt) in enumerate(zip(to_bytes(fakes.pictures), fakes.prompts, strict=True)):
        save_picture(tmp_path / prompt / f"{i:03d}.png", to_image(picture))
    again = folder(tmp_path, 1, (10, 10))
    order = sorted(range(60), key=lambda i: (fakes.prompts[i], i))
    assert torch.equal(again.pictures, fakes.pictures[order])
    assert again.prompts == tuple(fakes.prompts[i] for i in order)

    def told(r: Report) -> list[float]:
        n = r.numbers
        return [
            n["recognised"]["rate"],
            n["frechet"]["value"],
            n["kernel"]["value"],
            n["manifold"]["precision"],
            n["copies"]["pixels"]["fraction"],
        ]

    np.testing.assert_allclose(
        told(evaluate(again, train, test, eye)), told(evaluate(fakes, train, test, eye)), rtol=1e-5, atol=1e-7
    )


def test_without_prompts_recognition_is_left_out(world: tuple[Labelled, Labelled, Classifier]) -> None:
    train, test, eye = world
    r = evaluate(made(shapes(90, 2))._replace(prompts=("",) * 90), train, test, eye).numbers
    assert r["recognised"]["rate"] is None
    assert sum(row["seen"] for row in r["recognised"]["classes"]) == 90
    assert "recognised" not in card(r)


def test_reading_real_pictures() -> None:
    x = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    found = read(memory(x, ["b", "a"]), 1, (4, 4), ("a", "b"))
    assert found.labels.tolist() == [1, 0]
    assert torch.equal(found.pictures[0, 0], torch.from_numpy(x[0, :, :, 0].copy()))
    with pytest.raises(SpecError, match="no class"):
        read(memory(x, ["b", "c"]), 1, (4, 4), ("a", "b"))
    with pytest.raises(SpecError, match="4x4x1"):
        read(memory(x, ["b", "a"]), 1, (8, 8), ("a", "b"))
    with pytest.raises(SpecError, match="did you mean 'bar'"):
        classes(["bars"], NAMES)
    with pytest.raises(SpecError, match="real pictures of 'b'"):
        found.like(torch.tensor([1, 1]))
