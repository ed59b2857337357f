"""Codecs are measured as the formula says, on concepts that none was trained on, and drawn with their errors."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from safelight.cli.main import main
from safelight.codec.pixels import Pixels, PixelsSpec
from safelight.codec.vq import VQSpec
from safelight.data.composed import REDUCED, Vocabulary
from safelight.data.scenes.compose import Composer
from safelight.data.scenes.splits import codec_held
from safelight.evaluate.rebuilt import Rebuilt, held_out, one_each, picture, rebuilt, table
from safelight.model import save
from safelight.spec import SpecError
from tests.evaluate.scenes import tiny


class Dim(Pixels):
    """Gives pictures back darker by a factor."""

    def __init__(self, factor: float) -> None:
        super().__init__(PixelsSpec())
        self.factor = factor

    def decode(self, z: Tensor) -> Tensor:
        return z * self.factor


@pytest.fixture(scope="module")
def found() -> Rebuilt:
    torch.manual_seed(0)
    vq = VQSpec(widths=(8, 16), codes=32).build().eval()
    vq.codebook.normal_()
    return rebuilt({"exact": Pixels(PixelsSpec()), "dim": Dim(0.9), "vq": vq}, count=60)


def test_the_number_is_the_one_of_its_formula(found: Rebuilt) -> None:
    each = found.numbers["codecs"]
    assert each["exact"]["psnr"] == each["exact"]["pooled"] == pytest.approx(100, abs=1e-6)
    composer = Composer(Vocabulary(concepts=tuple(sorted(codec_held()))).pack())
    x = composer.render(held_out(composer, 60, 7)).double() / 127.5 - 1
    mse = ((0.1 * x) ** 2).flatten(1).mean(1)
    assert each["dim"]["psnr"] == pytest.approx((10 * (4 / mse).log10()).mean().item(), abs=1e-3)
    assert each["dim"]["pooled"] == pytest.approx(10 * math.log10(4 / mse.mean().item()), abs=1e-3)
    assert each["dim"]["worst"] == pytest.approx(torch.quantile(10 * (4 / mse).log10(), 0.05).item(), abs=1e-3)
    assert (
        each["dim"]["worst"] < each["dim"]["pooled"] < each["dim"]["psnr"]
    )  # Jensen: bad pictures weigh more in the pooled one
    assert 20 < found.numbers["shrunk"]["psnr"] < 30
    styles = each["dim"]["styles"]
    assert set(styles) == {"noto", "twemoji", "flat", "glossy", "blob"}
    assert min(styles.values()) <= each["dim"]["psnr"] <= max(styles.values())


def test_a_codebook_is_told_by_its_use(found: Rebuilt) -> None:
    vq, exact = found.numbers["codecs"]["vq"], found.numbers["codecs"]["exact"]
    assert vq["codes"] == 32 and 1 <= vq["perplexity"] <= vq["used"] <= 32
    assert vq["bits"] == 16 * 16 * 5 and vq["values"] == 4 * 16 * 16
    assert "codes" not in exact and exact["parameters"] == 0


def test_each_held_out_concept_is_drawn_once(found: Rebuilt) -> None:
    composer = Composer(Vocabulary(concepts=tuple(sorted(codec_held()))).pack())
    names = [composer.pack.concepts[c] for c in one_each(composer, 7).concept[:, 0].tolist()]
    assert sorted(names) == sorted(codec_held()) and len(set(names)) == 100
    assert found.pictures.shape == (100, 3, 64, 64)
    free = tuple(c for c in REDUCED.concepts or () if c not in codec_held())
    other = Composer(REDUCED.model_copy(update={"concepts": free}).pack())
    with pytest.raises(SpecError, match="none of the 100 concepts"):
        held_out(other, 4, 0)
    with pytest.raises(SpecError, match="at least one model"):
        rebuilt({})


def test_the_sheet_shows_originals_pictures_and_eightfold_errors(found: Rebuilt) -> None:
    page = np.asarray(picture(Rebuilt(found.numbers, found.pictures[:20], {"dim": found.again["dim"][:20]})))
    original = found.pictures[0].permute(1, 2, 0).numpy()
    top = next(
        (y, x) for y in range(len(page) - 64) for x in range(300) if np.array_equal(page[y : y + 64, x : x + 64], original)
    )
    y, x = top
    dim = np.rint((found.again["dim"][0].permute(1, 2, 0).numpy() + 1) * 127.5)
    assert np.array_equal(page[y + 66 : y + 130, x : x + 64], dim.astype(np.uint8))
    error = np.clip(8 * np.abs(dim.astype(int) - original), 0, 255)
    assert np.array_equal(page[y + 132 : y + 196, x : x + 64], error.astype(np.uint8))


def test_the_table_names_all_and_the_bar(found: Rebuilt) -> None:
    text = table(found.numbers)
    for name in ("exact", "dim", "vq", "4x4 means"):
        assert f"| {name} |" in text
    assert "Bar: 27 dB, met by the best" in text
    low = {**found.numbers, "codecs": {"vq": found.numbers["codecs"]["vq"]}}
    assert "missed" in table(low)


def test_codecs_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tmp_path / "tiny.safetensors"
    save(model, tiny())
    argv = ["evaluate", "codec", str(model), str(model), "--count", "20", "--device", "cpu", "--out", str(tmp_path)]
    assert main(argv) == 0
    found = json.loads((tmp_path / "codec.json").read_text())
    assert list(found["codecs"]) == ["kl", "kl 2"] and found["codecs"]["kl"]["psnr"] == found["codecs"]["kl 2"]["psnr"]
    assert "| kl 2 | 256 |" in capsys.readouterr().out
    assert (tmp_path / "codec.png").is_file()
