"""`--control`: a run steered by a picture from the command line, reproduced from its file, and refusals of one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from safelight import picture
from safelight.assets import seal
from safelight.interop import control
from safelight.nn.t2i import T2ISpec
from tests import peers
from tests.interop import folders


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny Stable Diffusion, an adapter for it, and a picture."""
    folder = tmp_path_factory.mktemp("world")
    folders.save(folders.sd1(), folder / "sd")
    adapter = peers.stirred(T2ISpec(widths=(32, 64), halves=(1,), unshuffle=2, depth=1).build())
    control.save(adapter, folder / "sketch")
    pixels = torch.randint(0, 256, (32, 32, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    Image.fromarray(pixels.numpy()).save(folder / "drawn.png")
    return folder


def test_a_steered_picture_is_another_and_is_made_again(world: Path, cli: Callable[..., Any], tmp_path: Path) -> None:
    model, sketch, drawn = world / "sd", world / "sketch", world / "drawn.png"
    common = ("generate", "cat", "--model", model, "--steps", 3, "--no-hints")
    assert cli(*common, "--out", tmp_path / "plain.png").code == 0
    ran = cli(*common, "--control", f"{sketch}={drawn}:0.8:0:0.9", "--out", tmp_path / "steered.png")
    assert ran.code == 0, ran.err
    plain, (steered, note) = picture.read(tmp_path / "plain.png")[0], picture.read(tmp_path / "steered.png")
    assert not torch.equal(plain, steered)
    shown = seal(picture.read(drawn)[0])
    assert note is not None and note.inputs == (shown,)
    assert note.request["controls"] == [
        {"name": "sketch", "picture": shown, "weight": 0.8, "start": 0.0, "end": 0.9, "hash": control.digest(sketch)}
    ]
    again = ("reproduce", tmp_path / "steered.png", "--model", model, "--input", drawn)
    assert cli(*again, "--control", sketch).code == 0
    control.save(peers.stirred(T2ISpec(widths=(32, 64), halves=(1,), unshuffle=2, depth=1).build(), 1), tmp_path / "sketch")
    ran = cli(*again, "--control", tmp_path / "sketch")
    assert ran.code == 2 and "is another control 'sketch'" in ran.err
    ran = cli(*again)
    assert ran.code == 2 and "control 'sketch' is not at hand: give its file with --control" in ran.err


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("{sketch}", "say FILE=PICTURE"),
        ("{sketch}={drawn}:much", "no such file"),
        ("nowhere={drawn}", "no control at nowhere"),
        ("{sd}={drawn}", "holds no weights"),
    ],
)
def test_what_is_no_control_is_refused_in_one_line(
    world: Path, cli: Callable[..., Any], tmp_path: Path, given: str, says: str
) -> None:
    text = given.format(sketch=world / "sketch", drawn=world / "drawn.png", sd=world / "sd")
    ran = cli("generate", "cat", "--model", world / "sd", "--control", text, "--no-hints", "--out", tmp_path / "x.png")
    assert ran.code == 2 and says in ran.err.lower() + ran.err and len(ran.err.strip().splitlines()) == 1, ran.err
