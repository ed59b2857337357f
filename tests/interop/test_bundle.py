"""A model without a published class: what diffusers makes of the exported folder is the picture that we make."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from safelight.assets import Assets
from safelight.interop import bundle
from safelight.model import Model, load
from safelight.noise import Noise
from safelight.sample.loop import trajectory
from safelight.spec import SpecError, parse
from safelight.task.base import Brief, Request, launch
from tests.peers import diffusers

STEPS, SCALE = 5, 2.0  # 5 divides the 1000 whole timesteps of their clock


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which diffusers keeps the code that it runs, forgotten afterwards."""
    modules = tmp_path / "modules"
    monkeypatch.setattr(diffusers().utils.dynamic_modules_utils, "HF_MODULES_CACHE", str(modules))
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.startswith("diffusers_modules")]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def ours(model: Model, words: str, x: torch.Tensor) -> torch.Tensor:
    """Pictures in [0, 1] from x, by DDIM, of which Euler on a flow is a case."""
    mix = {"kind": "cfg", "scale": SCALE}
    numbers = tuple(range(len(x)))
    request = Request.model_validate({"prompt": (words,) * len(x), "steps": STEPS, "sampler": "ddim", "mix": mix})
    brief = Brief(model, request.resolve(model), (words,) * len(x), numbers, Noise(0, numbers), Assets())
    with torch.inference_mode():
        stage = launch(brief, x, brief.levels)
        *_, last = trajectory(stage.denoise(), x, stage.levels, brief.request.sampler, Noise(0, numbers))
        return (model.codec.decode(last.x).clamp(-1, 1) + 1) / 2


@pytest.mark.parametrize(
    ("name", "words"), [("default", "three red apples on a blue background"), ("fashion-mnist", "ankle boot")]
)
def test_the_same_picture_there(name: str, words: str, elsewhere: Path) -> None:
    model, folder = load(name), elsewhere / name
    bundle.write(model, folder)
    x = torch.randn(2, *model.latent_shape(), generator=torch.Generator().manual_seed(0))
    pipeline = diffusers().DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline([words] * 2, latents=x, num_inference_steps=STEPS, guidance_scale=SCALE, output_type="pt").images
    assert float((ours(model, words, x) - theirs).abs().max()) < 0.01 / 255
    assert float(theirs.std()) > 0.1  # a picture, not a plain


def test_the_code_that_travels_needs_nothing_of_ours(tmp_path: Path) -> None:
    bundle.write(load("default"), tmp_path / "out")
    files = list((tmp_path / "out").rglob("*.py"))
    assert len(files) > 20
    for file in files:
        text = file.read_text()
        assert not re.search(r"^\s*(from|import)\s+safelight\b", text, re.MULTILINE), file
        compile(text, str(file), "exec")
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    assert index["unet"] == ["safelight_unet", "SafelightNetwork"]


def test_what_has_no_name_there_is_said_in_one_line(tmp_path: Path) -> None:
    model = load("fashion-mnist")
    model.spec = model.spec.model_copy(update={"parameterization": parse("edm", "parameterization")})
    with pytest.raises(SpecError, match="no name for parameterization 'edm'"):
        bundle.write(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is there already"):
        bundle.write(load("fashion-mnist"), tmp_path)
