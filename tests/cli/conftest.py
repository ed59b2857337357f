"""Trained-looking models of 3 classes and of words, sampled in milliseconds, and the command line called in-process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from safelight.cli.main import main
from safelight.model import ModelSpec, save
from safelight.spec import parse
from tests.train import tiny as parts

CLASSES = ("bag", "ankle boot", "dress")


class Ran(NamedTuple):
    """A finished command."""

    code: int
    out: str
    err: str


def tiny(width: int = 8) -> ModelSpec:
    """12x12, a U-Net of two resolutions, guided by default."""
    spec = parse(
        {
            "network": {
                "kind": "unet",
                "widths": [width, 2 * width],
                "depth": 1,
                "skips": 2,
                "cond": 8,
                "time": 16,
                "attention": [],
                "middle": {"kind": "full-attention", "head_width": 8},
                "norm": {"kind": "group-norm", "groups": 4},
                "zero": False,
            },
            "process": "cosine",
            "parameterization": "v",
            "text": {"kind": "label", "names": CLASSES, "width": 8},
            "size": [12, 12],
            "defaults": {"steps": 4, "sampler": "ddim", "grid": "uniform", "mix": {"kind": "cfg", "scale": 2, "rescale": 0.25}},
        },
        "model",
    )
    assert isinstance(spec, ModelSpec)
    return spec


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model's file, with raw weights and an average that differs from them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = tiny().build()
    average = {name: value * 1.5 for name, value in built.state_dict().items()}
    path: Path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save(path, built, lineage={"recipe": "tiny", "images": 12}, averages={"ema": average})
    return path


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A latent model of words, 32x32, untrained but for a last layer that is not zero."""
    spec = parts.worded(defaults={"steps": 3, "sampler": "dpm++2m", "mix": {"kind": "cfg", "scale": 3}})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = spec.build()
    path: Path = tmp_path_factory.mktemp("words") / "words.safetensors"
    save(path, built)
    return path


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`cli("sample", path, "-p", "bag")` -> exit code, stdout, stderr."""

    def call(*argv: object) -> Ran:
        capsys.readouterr()
        try:
            code = main([str(a) for a in argv])
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        return Ran(code, *capsys.readouterr())

    return call
