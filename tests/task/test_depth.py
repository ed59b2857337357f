"""What a network hears of a depth picture; and a whole run beside diffusers' own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from safelight import model as files
from safelight.assets import Assets, as_pixels
from safelight.model import Model
from safelight.noise import Noise
from safelight.spec import SpecError
from safelight.task import Brief, Request
from tests import peers
from tests.interop import folders
from tests.task import toys


def heard(made: Model, depth: Tensor, picture: Tensor | None = None, prompt: str = "", **task: Any) -> Tensor:
    """Cond.image as the network was given it."""
    told: list[Tensor] = []
    bind = made.denoiser.network.bind

    def listening(cond: Any, noises: Any = ()) -> Any:
        told.append(cond.image)
        return bind(cond, noises)

    made.denoiser.network.bind = listening  # type: ignore[method-assign]
    assets = Assets()
    if picture is not None:
        task["of"] = {"kind": "image", "picture": assets.add(picture)}
    fields: dict[str, Any] = {
        "prompt": prompt,
        "count": 2,
        "steps": 2,
        "task": {"kind": "depth", "depth": assets.add(depth), **task},
    }
    try:
        toys.finished(made, Request.model_validate(fields), assets=assets)
    finally:
        made.denoiser.network.bind = bind  # type: ignore[method-assign]
    (one,) = told
    return one


@pytest.fixture(scope="module")
def made() -> Model:
    return toys.model(channels=3, codec=toys.CODEC, size=(16, 16), image=1, labelled=True)


def test_the_map_goes_from_the_farthest_to_the_nearest_at_the_latents_size(made: Model) -> None:
    """A depth of steps as wide as the cells: their order, from -1 to 1, on all branches and pictures."""
    steps = torch.tensor([40, 60, 90, 80], dtype=torch.uint8)
    depth = steps.repeat_interleave(4).expand(1, 16, 16).contiguous()
    found = heard(made, depth, prompt="bag")
    assert found.shape == (4, 1, 4, 4) and bool((found == found[:1]).all())
    assert float(found.min()) == -1 and float(found.max()) == 1
    x = found[0, 0, 0]
    assert x.argsort().tolist() == [0, 1, 3, 2]
    torch.testing.assert_close(heard(made, depth, prompt="bag", invert=True), -found)
    # Contrast is the picture's affair, order and proportions the map's.
    torch.testing.assert_close(heard(made, depth * 2, prompt="bag"), found, rtol=0, atol=1e-5)
    assert not bool(heard(made, torch.full((1, 16, 16), 7, dtype=torch.uint8), prompt="bag").any())


def test_it_takes_the_size_of_what_is_made(made: Model) -> None:
    picture = toys.noise((3, 19, 30))
    depth = torch.arange(60, dtype=torch.uint8).expand(3, 38, 60).contiguous()  # in colour, and twice as large
    found = heard(made, depth, picture)
    assert found.shape[-2:] == (5, 8)
    assert bool((found[0, 0, :, 1:] >= found[0, 0, :, :-1]).all())


def test_a_network_without_a_map_of_one_channel_is_refused() -> None:
    depth = toys.noise((1, 16, 16))
    for image, said in ((0, "the network takes no channels"), (5, "the network takes 5 channels")):
        with pytest.raises(SpecError, match=said):
            heard(toys.model(channels=3, codec=toys.CODEC, size=(16, 16), image=image), depth)


@torch.no_grad()
def test_a_picture_with_its_depth_is_diffusers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same weights, noise and map, from a picture at strength 0.6 with guidance: within 1/255."""
    peer = peers.diffusers()
    theirs = peer.StableDiffusionDepth2ImgPipeline(
        vae=folders.vae(), text_encoder=folders.text(), tokenizer=folders.tokenizer(), unet=folders.unet(in_channels=5),
        scheduler=folders.ddim(), depth_estimator=None, feature_extractor=None,
    )  # fmt: skip
    ours = files.load(folders.save(theirs, tmp_path / "depth"))
    assets, picture, depth = Assets(), toys.noise((3, 24, 32)), toys.noise((1, 24, 32), 1)
    image = {"kind": "image", "picture": assets.add(picture), "strength": 0.6, "steps": "grid"}
    task: Any = {"kind": "depth", "depth": assets.add(depth), "of": image}
    request = Request.model_validate(
        {"task": task, "prompt": "a red dog", "steps": 10, "seed": 2, "mix": {"kind": "cfg", "scale": 3.0}}
    )
    found = toys.finished(ours, request, assets=assets)
    cells = 12, 16
    brief = Brief(ours, request.resolve(ours, assets), ("a red dog",), (0,), Noise(2, 1), assets)
    shown = request.task.map(brief, cells)  # type: ignore[attr-defined]
    module = sys.modules[type(theirs).__module__]
    noise = Noise(2, 1).normal("start", None, None, torch.empty(1, 4, *cells))
    monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: noise)
    monkeypatch.setattr(module, "retrieve_latents", lambda encoded, **_: encoded.latent_dist.mode())
    theirs.set_progress_bar_config(disable=True)
    wanted = theirs(
        "a red dog", image=as_pixels(picture)[None], depth_map=shown[0], strength=0.6, num_inference_steps=10, guidance_scale=3.0,
        output_type="pt",
    ).images  # fmt: skip
    assert float(((found + 1) / 2).clamp(0, 1).sub(wanted).abs().max()) < 1 / 255
    assert float(wanted.std()) > 0.05  # a picture, and not its clipping
