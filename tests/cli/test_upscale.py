"""`safelight upscale`, and `generate --hires`, `--refiner`, `--depth`: flags are the tasks' fields, and what goes in comes out larger."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from safelight.cli.overrides import read
from safelight.model import save
from safelight.process.augment import Augment
from safelight.spec import build
from tests.cli.conftest import tiny


@pytest.fixture(autouse=True)
def photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """photo.png, 10x14 grey, and depth.png."""
    monkeypatch.chdir(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (10, 14), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.png")
    Image.fromarray(np.tile(np.arange(24, dtype=np.uint8), (24, 1))).save("depth.png")
    return pixels


def made(folder: str | Path) -> np.ndarray:
    (file,) = sorted(Path(folder, "pictures").iterdir())
    return np.asarray(Image.open(file))


def test_a_picture_becomes_larger_by_a_factor_or_to_a_size(cli: Callable[..., Any], model: Path) -> None:
    flags = ["upscale", "photo.png", "bag", "--model", model, "--steps", "8"]
    ran = cli(*flags, "--out", "two")
    assert ran.code == 0 and ran.out.startswith("1 picture of 20x28 in ") and "(3 of 8 steps of ddim" in ran.out
    assert made("two").shape == (20, 28)
    assert cli(*flags, "--by", "1.5", "--tile", "12", "--overlap", "4", "--strength", "0.5", "--out", "tiles").code == 0
    assert made("tiles").shape == (15, 21)
    kept = ["--save-config", "kept.yaml", "--size", "30x20", "--latent", "bicubic", "--exact-steps", "--out", "size"]
    assert "(8 steps" in cli(*flags, *kept).out
    assert made("size").shape == (30, 20)
    assert read("kept.yaml")["task"]["second"] | {"fit": 0} == {
        "strength": 0.35, "steps": "exact", "count": None, "latent": "bicubic", "fit": 0, "tile": None, "overlap": None,
    }  # fmt: skip
    assert cli("upscale", "photo.png", "--config", "kept.yaml", "--model", model, "--out", "again").code == 0
    np.testing.assert_array_equal(made("again"), made("size"))
    assert (
        cli(
            "upscale",
            "photo.png",
            "--config",
            "kept.yaml",
            "--by",
            "1",
            "--strength",
            "0.1",
            "--model",
            model,
            "--out",
            "other",
        ).code
        == 0
    )
    assert made("other").shape == (10, 14)


def test_little_strength_keeps_what_is_seen(cli: Callable[..., Any], model: Path, photo: np.ndarray) -> None:
    assert cli("upscale", "photo.png", "--model", model, "--strength", "0.001", "--out", "o").code == 0
    lanczos = np.asarray(Image.fromarray(photo).resize((28, 20), Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(made("o") - lanczos).mean() < 4


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--by", "2", "--size", "9x9"], "--by and --size both say how large it gets"),
        (["--noise-level", "3"], "--noise-level is for models made for enlarging; this one has --strength"),
        (["--overlap", "3"], "overlap is what tiles share: give a tile at least twice as large"),
        (["--latent", "sinc"], "'nearest', 'bilinear', 'bicubic' or 'lanczos'"),
    ],
)
def test_flags_that_do_not_go_together(cli: Callable[..., Any], model: Path, flags: list[str], said: str) -> None:
    ran = cli("upscale", "photo.png", "--model", model, *flags)
    assert ran.code == 2 and said in ran.err and ran.err.count("\n") == 1


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Models that are told a map of a channel, as a picture with a noise level and as a depth."""
    found = {}
    for level in (0, 1):
        spec = tiny()
        network = spec.network.model_copy(update={"image": 1, "cond": 8 + level})
        augment = Augment(process=build("cosine-betas", "process")) if level else None
        with torch.random.fork_rng():
            torch.manual_seed(level)
            found[level] = tmp_path_factory.mktemp("shown") / "model.safetensors"
            save(found[level], spec.model_copy(update={"network": network, "augment": augment}).build())
    return found


def test_a_model_made_for_it_is_shown_the_picture(cli: Callable[..., Any], shown: dict[int, Path]) -> None:
    flags = ["upscale", "photo.png", "bag", "--model", shown[1]]
    ran = cli(*flags, "--noise-level", "50", "--save-config", "kept.yaml", "--out", "o")
    assert ran.code == 0 and made("o").shape == (40, 56)
    assert (read("kept.yaml")["task"]["kind"], read("kept.yaml")["task"]["level"]) == ("superres", 50)
    ran = cli(*flags, "--strength", "0.5")
    assert ran.code == 2 and "--strength is of a second pass; this model is made for enlarging" in ran.err


def test_hires_in_one_command(cli: Callable[..., Any], model: Path) -> None:
    flags = ["generate", "bag", "--model", model, "--seed", "2"]
    ran = cli(
        *flags, "--hires", "--hires-strength", "0.6", "--size", "18x24", "--film", "--show-steps", "--trace", "--out", "both"
    )
    assert ran.code == 0 and ran.out.startswith("1 picture of 18x24")
    assert {"steps.png", "steps.gif", "trace.safetensors", "trace-2.safetensors"} <= {f.name for f in Path("both").iterdir()}
    assert cli(*flags, "--size", "10x14", "--out", "first.png").code == 0
    assert cli(*flags, "--hires", "10x14", "--hires-strength", "0.6", "--size", "20x28", "--out", "two").code == 0
    assert cli("upscale", "first.png", "bag", "--model", model, "--seed", "2", "--strength", "0.6", "--out", "again").code == 0
    np.testing.assert_allclose(made("two").astype(int), made("again").astype(int), atol=1)
    assert "(9 steps of ddim" in cli(*flags, "--hires", "--hires-steps", "5").out
    ran = cli(*flags, "--hires-steps", "5")
    assert ran.code == 2 and "are of a second pass: give --hires" in ran.err


def test_a_refiner_and_a_depth(cli: Callable[..., Any], model: Path, shown: dict[int, Path]) -> None:
    flags = ["generate", "bag", "--model", model, "--steps", "10"]
    ran = cli(*flags, "--refiner", model, "--switch", "0.5", "--out", "refined")
    assert ran.code == 0 and "(10 steps of ddim" in ran.out
    cli(*flags, "--out", "plain")
    np.testing.assert_allclose(made("refined").astype(int), made("plain").astype(int), atol=1)
    for extra in ([], ["--near-black"]):
        assert (
            cli("generate", "bag", "--model", shown[0], "--depth", "depth.png", *extra, "--out", f"depth{len(extra)}").code == 0
        )
    assert (made("depth0") != made("depth1")).any()
    assert cli("edit", "photo.png", "bag", "--model", shown[0], "--depth", "depth.png", "--out", "edited").code == 0
    for bad, said in (
        (["--switch", "0.1"], "give one"),
        (["--near-black"], "give one"),
        (["--depth", "depth.png"], "takes no channels of a map"),
    ):
        ran = cli(*flags, *bad)
        assert ran.code == 2 and said in ran.err
