"""What a super-resolution network is shown and told, in closed form; and whole upscalers beside diffusers' own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from safelight import model as files
from safelight.assets import Assets, as_pixels
from safelight.cond import Cond
from safelight.model import Model
from safelight.noise import Noise
from safelight.process.augment import Augment
from safelight.spec import SpecError, build, describe, parse
from safelight.task import Request
from tests import peers, small
from tests.interop import folders
from tests.task import toys


def told(made: Model, picture: Tensor, **fields: Any) -> tuple[Cond, Tensor]:
    """The condition that the network is bound to, and the pictures."""
    heard: list[Cond] = []
    bind = made.denoiser.network.bind

    def listening(cond: Any, noises: Any = ()) -> Any:
        heard.append(cond)
        return bind(cond, noises)

    made.denoiser.network.bind = listening  # type: ignore[method-assign]
    assets = Assets()
    task = {"kind": "superres", "picture": assets.add(picture), **fields.pop("task", {})}
    try:
        found = toys.finished(
            made, Request.model_validate({"steps": 2, "sampler": "ddim", **fields, "task": task}), assets=assets
        )
    finally:
        made.denoiser.network.bind = bind  # type: ignore[method-assign]
    (one,) = heard
    return one, found


def told_noise(cond: int, augment: Augment | None, codec: bool = True) -> Model:
    made = toys.model(channels=3, codec=toys.CODEC if codec else None, size=(32, 32), image=3)
    network = made.spec.network.model_copy(update={"cond": cond})
    spec = made.spec.model_copy(update={"network": network, "augment": augment})
    return spec.build().eval()


def test_the_small_picture_is_shown_at_the_latents_size_and_its_noise_told() -> None:
    augment = Augment(process=build("scaled-linear", "process"), level=20)
    made = told_noise(1, augment)
    picture = toys.noise((3, 7, 5))
    for level in (20, 300):
        cond, found = told(made, picture, count=2, seed=6, task={} if level == 20 else {"level": level})
        assert found.shape == (2, 3, 28, 20)
        x = as_pixels(picture)[None].expand(2, -1, -1, -1)
        alpha, sigma, _ = augment.process.at(torch.tensor((level + 1) / 1000, dtype=torch.float64)).floats
        noise = Noise(6, 2).normal("augment", augment.at(level), None, x)
        torch.testing.assert_close(cond.image, alpha * x + sigma * noise)
        assert cond.vector is not None and cond.vector.tolist() == [[level]] * 2


def test_other_sizes_are_resampled_corner_on_corner() -> None:
    made = told_noise(0, None, codec=False)
    picture = toys.noise((3, 8, 8))
    cond, found = told(made, picture)
    assert found.shape == (1, 3, 32, 32) and cond.vector is None
    torch.testing.assert_close(
        cond.image, F.interpolate(as_pixels(picture)[None], (32, 32), mode="bilinear", align_corners=True)
    )
    cond, found = told(told_noise(0, None), picture, size=(18, 30))  # sides that the stride does not divide
    assert found.shape == (1, 3, 18, 30) and cond.image is not None and cond.image.shape[-2:] == (5, 8)


def test_the_number_goes_behind_what_words_say() -> None:
    base = small.spec("linear", labelled=True)
    network = base.network.model_copy(update={"cond": base.text.gives[1] + 1, "image": 1})  # type: ignore[union-attr]
    augment = Augment(process=build("cosine-betas", "process"), level=250)
    made = base.model_copy(update={"network": network, "augment": augment}).build().eval()
    cond, _ = told(made, toys.noise((1, 2, 2)), prompt="bag", mix={"kind": "cfg", "scale": 2})
    assert cond.vector is not None and cond.vector[:, -1].tolist() == [250, 250]
    with torch.no_grad():
        torch.testing.assert_close(cond.vector[:, :-1], made.text.read(["bag", ""]).vector)  # type: ignore[union-attr]


def test_refusals() -> None:
    picture = toys.noise((3, 8, 8))
    with pytest.raises(
        SpecError, match="superres: the network takes no channels of a map, not the 3 of a picture: `upscale` is for such"
    ):
        told(toys.model(channels=3, codec=toys.CODEC, size=(16, 16)), picture)
    with pytest.raises(SpecError, match="told no noise of the small picture"):
        told(told_noise(0, None), picture, task={"level": 3})
    with pytest.raises(SpecError, match=r"augment: level 5000 is not in the table's 0..999"):
        told(told_noise(1, Augment(process=build("linear", "process"))), picture, task={"level": 5000})
    with pytest.raises(ValueError, match="has no table of levels"):
        Augment(process=build("flow", "process"))
    made = told_noise(1, Augment(process=build("linear", "process")))
    assert parse(describe(made.spec), "model") == made.spec


@torch.no_grad()
def test_the_upscaler_by_four_is_diffusers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same weights and noise: words, guidance, noise on the small picture and its level, DDIM; within 1/255."""
    peer = peers.diffusers()
    network = folders.unet(in_channels=7, num_class_embeds=1000, attention_head_dim=4)
    vae = peers.stirred(
        peer.AutoencoderKL(
            block_out_channels=(32, 32, 64), down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4, norm_num_groups=8, sample_size=64, scaling_factor=0.08333,
        ), 2,
    )  # fmt: skip
    low = peer.DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.0001, beta_end=0.02)
    theirs = peer.StableDiffusionUpscalePipeline(
        vae=vae, text_encoder=folders.text(), tokenizer=folders.tokenizer(), unet=network, low_res_scheduler=low,
        scheduler=folders.ddim(prediction_type="v_prediction"), max_noise_level=350,
    )  # fmt: skip
    ours = files.load(folders.save(theirs, tmp_path / "upscaler"))
    assert ours.codec.stride == 4 and ours.spec.augment is not None
    picture = toys.noise((3, 8, 12))
    noise, level = Noise(3, 1), ours.spec.augment.at(20)
    low_noise = noise.normal("augment", level, None, torch.empty(1, 3, 8, 12))
    start = noise.normal("start", None, None, torch.empty(1, 4, 8, 12))
    left = [low_noise, start]
    monkeypatch.setattr(sys.modules[type(theirs).__module__], "randn_tensor", lambda *_, **__: left.pop(0))
    theirs.set_progress_bar_config(disable=True)
    wanted = theirs(
        "a red cat", image=as_pixels(picture)[None], num_inference_steps=5, guidance_scale=4.0, noise_level=20, output_type="pt",
    ).images  # fmt: skip
    _, found = told(ours, picture, prompt="a red cat", steps=5, seed=3, mix={"kind": "cfg", "scale": 4.0}, sampler=None)
    assert float(((found + 1) / 2).clamp(0, 1).sub(wanted).abs().max()) < 1 / 255
    assert float(wanted.std()) > 0.05  # a picture, and not its clipping


@torch.no_grad()
def test_deepfloyds_second_stage_is_diffusers_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As published: pixels, T5, DDPM with learned variance and thresholding, noise of entry 250 on the enlarged picture; within 1/255."""
    peer = peers.diffusers()
    network = peers.stirred(
        peer.UNet2DConditionModel(
            sample_size=32, in_channels=6, out_channels=6, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn", up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            cross_attention_dim=32, encoder_hid_dim=32, encoder_hid_dim_type="text_proj", addition_embed_type="text",
            addition_embed_type_num_heads=4, attention_head_dim=8, act_fn="gelu", resnet_time_scale_shift="scale_shift",
            cross_attention_norm="group_norm", class_embed_type="timestep", only_cross_attention=True, resnet_skip_time_act=True,
            resnet_out_scale_factor=1.414, mid_block_scale_factor=1.414, time_embedding_act_fn="gelu",
        ), 9,
    )  # fmt: skip
    steps = peer.DDPMScheduler(
        beta_schedule="squaredcos_cap_v2", variance_type="learned_range", thresholding=True, dynamic_thresholding_ratio=0.95,
        sample_max_value=1.5,
    )  # fmt: skip
    theirs = peer.IFSuperResolutionPipeline(
        tokenizer=folders.pieces(), text_encoder=folders.t5(), unet=network, scheduler=steps,
        image_noising_scheduler=peer.DDPMScheduler(beta_schedule="squaredcos_cap_v2"), safety_checker=None, feature_extractor=None,
        watermarker=None, requires_safety_checker=False,
    )  # fmt: skip
    ours = files.load(folders.save(theirs, tmp_path / "stage"))
    assert ours.spec.augment is not None and ours.spec.augment.level == 250
    picture, like = toys.noise((3, 8, 8)), torch.empty(1, 3, 32, 32)
    own = Noise(3, 1)
    begun = [own.normal("start", None, None, like), own.normal("augment", ours.spec.augment.at(250), None, like)]
    draws, usual = torch.Generator(), Noise.normal

    def drawn(self: Noise, purpose: str, now: Any, to: Any, like: Tensor) -> Tensor:
        beginning = purpose in ("start", "augment")
        return usual(self, purpose, now, to, like) if beginning else torch.randn(like.shape, generator=draws)

    monkeypatch.setattr(Noise, "normal", drawn)
    monkeypatch.setattr(sys.modules[type(theirs).__module__], "randn_tensor", lambda *_, **__: begun.pop(0))
    stepping = sys.modules[peer.DDPMScheduler.__module__]
    monkeypatch.setattr(stepping, "randn_tensor", lambda shape, **_: torch.randn(shape, generator=draws))
    theirs.set_progress_bar_config(disable=True)
    draws.manual_seed(1)
    wanted = theirs(
        ["a red cat"], image=as_pixels(picture)[None], num_inference_steps=5, guidance_scale=4.0, noise_level=250, output_type="pt",
        clean_caption=False,
    ).images  # fmt: skip
    draws.manual_seed(1)
    _, found = told(ours, picture, prompt="a red cat", steps=5, seed=3, mix={"kind": "cfg", "scale": 4.0}, sampler=None)
    # As tensors they are handed out before they are clipped and brought to [0, 1].
    assert float((found.clamp(-1, 1) - wanted.clamp(-1, 1)).abs().max()) < 2 / 255
    assert float((wanted.abs() < 1).float().mean()) > 0.5  # a picture, and not its clipping
