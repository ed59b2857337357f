"""Whole pipelines beside diffusers': the folder that it saved, the same noise and schedule, and every value of the picture within 1/255."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from safelight.assets import Assets, seal
from safelight.generate import Finished, generate
from safelight.interop import schedulers
from safelight.model import Model, load
from safelight.noise import Noise
from safelight.spec import parse
from safelight.task import Request
from tests import peers
from tests.interop import folders

TABLE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "DDIM": {"_class_name": "DDIMScheduler", **TABLE, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1},
    "Euler": {"_class_name": "EulerDiscreteScheduler", **TABLE, "steps_offset": 1},
    "DPM++2M": {"_class_name": "DPMSolverMultistepScheduler", **TABLE, "use_karras_sigmas": True},
    "UniPC": {"_class_name": "UniPCMultistepScheduler", **TABLE},
}
V = {"prediction_type": "v_prediction"}
SEED, STEPS = 7, 6
PROMPT, NEGATIVE = "a red cat, a dog", "red"


def request(config: dict[str, Any], **more: Any) -> Request:
    """A request with the sampler, grid and bends of a scheduler's description."""
    schedule = schedulers.read(config)
    asked = {"sampler": schedule.sampler, "grid": schedule.grid, "bends": schedule.bends, "seed": SEED, "steps": STEPS}
    found = parse({**asked, **more}, "request")
    assert isinstance(found, Request)
    return found


def ours(model: Model, asked: Request, assets: Assets | None = None) -> Tensor:
    """(B, C, H, W) in [0, 1], as diffusers hands pictures out."""
    (done,) = [event for event in generate(model, asked, assets=assets) if isinstance(event, Finished)]
    return (done.pictures / 2 + 0.5).clamp(0, 1)


def start(*shape: int) -> Tensor:
    """The noise that our run begins with."""
    return Noise(SEED, range(shape[0])).normal("start", None, None, torch.empty(shape))


def swapped(pipeline: Any, config: dict[str, Any]) -> Any:
    """The pipeline with another scheduler."""
    pipeline.scheduler = getattr(peers.diffusers(), config["_class_name"]).from_config(config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(pictures: Any) -> Tensor:
    return torch.from_numpy(np.asarray(pictures)).permute(0, 3, 1, 2)


def compare(mine: Tensor, other: Tensor, where: Tensor | None = None, grey: float = 0.5) -> None:
    """Within 1/255 everywhere, or `where`, of pictures of which more than `grey` is neither black nor white."""
    assert mine.shape == other.shape
    if where is not None:
        mine, other = mine[..., where], other[..., where]
    assert float(other.std()) > 0.05 and float(((other > 0) & (other < 1)).float().mean()) > grey
    assert float((mine - other).abs().max()) < 1 / 255


def pair(pipeline: Any, folder: Path) -> tuple[Any, Model]:
    return pipeline, load(folders.save(pipeline, folder)).eval()


def run(
    pair: tuple[Any, Model],
    kind: str,
    *,
    call: dict[str, Any],
    asked: dict[str, Any],
    assets: Assets | None = None,
    where: Tensor | None = None,
) -> None:
    """Both, with one scheduler and guidance, compared."""
    pipeline, model = pair
    common = {"prompt": [PROMPT], "negative_prompt": [NEGATIVE], "num_inference_steps": STEPS, "guidance_scale": 4.0}
    pictures = swapped(pipeline, SCHEDULERS[kind])(**{**common, "output_type": "np", **call}).images
    mine = {"prompt": PROMPT, "negative": NEGATIVE, "mix": {"kind": "cfg", "scale": 4.0}, "size": (32, 32)}
    compare(ours(model, request(SCHEDULERS[kind], **{**mine, **asked}), assets), theirs(pictures), where)


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines that draw their noise themselves draw ours, and take the middle of what the codec gives, as we do."""
    for name in ("StableDiffusionImg2Img", "StableDiffusionInpaint", "StableDiffusionXLImg2Img", "DiT", "PixArtAlpha", "IF"):
        getattr(peers.diffusers(), f"{name}Pipeline")  # imported when asked for
    for module in [name for name in sys.modules if name.startswith("diffusers.pipelines.")]:
        for name, value in (
            ("randn_tensor", lambda shape, **_: start(*shape)),
            ("retrieve_latents", lambda encoded, *_, **__: encoded.latent_dist.mode()),
        ):
            if name in vars(sys.modules[module]):
                monkeypatch.setattr(sys.modules[module], name, value)


def picture() -> Tensor:
    """(3, 32, 32) uint8."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 32), indexing="ij")
    return torch.stack([255 * x, 255 * y, 127 + 127 * torch.sin(9 * x * y)]).round().to(torch.uint8)


def hole() -> Tensor:
    """(1, 32, 32) uint8, 255 where it is painted anew: whole cells of the latents."""
    mask = torch.zeros(1, 32, 32, dtype=torch.uint8)
    mask[:, 8:24, 12:28] = 255
    return mask


@pytest.fixture(scope="module")
def sd1(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    return pair(folders.sd1(), tmp_path_factory.mktemp("sd1"))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_stable_diffusion_1(kind: str, sd1: tuple[Any, Model]) -> None:
    run(sd1, kind, call={"latents": start(1, 4, 16, 16)}, asked={})


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_a_picture_to_begin_with(kind: str, sd1: tuple[Any, Model], same_noise: None) -> None:
    pipeline, model = sd1
    edit = peers.diffusers().StableDiffusionImg2ImgPipeline(**pipeline.components, requires_safety_checker=False)
    given = Assets([picture()])
    task = {"kind": "image", "picture": seal(picture()), "strength": 0.7, "steps": "grid"}
    run((edit, model), kind, call={"image": picture()[None].float() / 255, "strength": 0.7}, asked={"task": task}, assets=given)


@pytest.fixture(scope="module")
def sd2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    """Stable Diffusion 2.1: linear maps, heads by level, the velocity is predicted."""
    network = folders.unet(use_linear_projection=True, attention_head_dim=(4, 8))
    made = folders.sd1(unet=network, text_encoder=folders.text(act="gelu"), scheduler=folders.ddim(**V))
    return pair(made, tmp_path_factory.mktemp("sd2"))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_stable_diffusion_2_1_v(kind: str, sd2: tuple[Any, Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SCHEDULERS, kind, {**SCHEDULERS[kind], **V})
    assert sd2[1].spec.parameterization.kind == "v"
    run(sd2, kind, call={"latents": start(1, 4, 16, 16)}, asked={})


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    return pair(folders.sdxl(), tmp_path_factory.mktemp("sdxl"))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_stable_diffusion_xl(kind: str, sdxl: tuple[Any, Model]) -> None:
    run(sdxl, kind, call={"latents": start(1, 4, 16, 16), "height": 32, "width": 32}, asked={})


class Near(Assets):
    """Assets that have a model at hand."""

    def __init__(self, **models: Model) -> None:
        super().__init__()
        self._models.update(models)


@pytest.fixture(scope="module")
def refiner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    """SDXL's refiner: the second encoder alone, and an aesthetic score."""
    network = folders.unet(
        cross_attention_dim=32, addition_embed_type="text_time", addition_time_embed_dim=8, use_linear_projection=True,
        projection_class_embeddings_input_dim=32 + 5 * 8, transformer_layers_per_block=(1, 1),
    )  # fmt: skip
    made = peers.diffusers().StableDiffusionXLImg2ImgPipeline(
        vae=folders.vae(), text_encoder=None, text_encoder_2=folders.text(projection=32, act="gelu"), tokenizer=None,
        tokenizer_2=folders.tokenizer("!"), unet=network, scheduler=folders.ddim(), requires_aesthetics_score=True,
        force_zeros_for_empty_prompt=False, add_watermarker=False,
    )  # fmt: skip
    return pair(made, tmp_path_factory.mktemp("refiner"))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_the_refiner_of_xl(kind: str, sdxl: tuple[Any, Model], refiner: tuple[Any, Model], same_noise: None) -> None:
    """The base to a switch level, and from there the refiner, on the same latents and schedule."""
    (base, model), (second, finer) = sdxl, refiner
    words = {"prompt": [PROMPT], "negative_prompt": [NEGATIVE], "num_inference_steps": 10, "guidance_scale": 4.0}
    half = swapped(base, SCHEDULERS[kind])(
        **words, latents=start(1, 4, 16, 16), height=32, width=32, denoising_end=0.6, output_type="latent"
    ).images
    size = {"original_size": (32, 32), "target_size": (32, 32)}
    pictures = swapped(second, SCHEDULERS[kind])(**words, **size, image=half, denoising_start=0.6, output_type="np").images
    asked = request(
        SCHEDULERS[kind], prompt=PROMPT, negative=NEGATIVE, mix={"kind": "cfg", "scale": 4.0}, size=(32, 32), steps=10,
        task={"kind": "refine", "refiner": "finer", "switch": 0.4},
    )  # fmt: skip
    compare(ours(model, asked, Near(finer=finer)), theirs(pictures))


def painted(strength: float, **more: Any) -> dict[str, Any]:
    """The fields of our request to paint the hole; the colours are not met at its border, as diffusers does not."""
    names = {"picture": seal(picture()), "mask": seal(hole())}
    return {"task": {"kind": "inpaint", **names, "strength": strength, "steps": "grid", "match": 0, **more}}


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_painting_with_four_channels(kind: str, sd1: tuple[Any, Model], same_noise: None) -> None:
    """In the hole; outside it our picture is the given one to the byte, and diffusers' went through the codec."""
    pipeline, model = sd1
    edit = peers.diffusers().StableDiffusionInpaintPipeline(**pipeline.components, requires_safety_checker=False)
    given = {"image": picture()[None].float() / 255, "mask_image": hole()[None].float() / 255, "height": 32, "width": 32}
    assets = Assets([picture(), hole()])
    run((edit, model), kind, call={**given, "strength": 0.85}, asked=painted(0.85), assets=assets, where=hole()[0] > 0)


@pytest.fixture(scope="module")
def nine(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    """The inpainting checkpoints: mask and masked latents beside the noisy ones."""
    parts = folders.sd1(unet=folders.unet(in_channels=9)).components
    made = peers.diffusers().StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    return pair(made, tmp_path_factory.mktemp("nine"))


@pytest.mark.parametrize("strength", [0.85, 1.0])
@pytest.mark.parametrize("kind", SCHEDULERS)
def test_painting_with_nine_channels(kind: str, strength: float, nine: tuple[Any, Model], same_noise: None) -> None:
    given = {"image": picture()[None].float() / 255, "mask_image": hole()[None].float() / 255, "height": 32, "width": 32}
    asked, assets = painted(strength, hold=False), Assets([picture(), hole()])
    run(nine, kind, call={**given, "strength": strength}, asked=asked, assets=assets, where=hole()[0] > 0)


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    """DiT: a thousand classes and the null one, learned variance."""
    peer = peers.diffusers()
    network = peers.stirred(
        peer.DiTTransformer2DModel(
            num_attention_heads=4, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, sample_size=16,
            patch_size=2, num_embeds_ada_norm=1000, norm_eps=1e-5,
        ),
        4,
    )  # fmt: skip
    made = peer.DiTPipeline(transformer=network, vae=folders.vae(), scheduler=folders.ddim())
    return pair(made, tmp_path_factory.mktemp("dit"))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_dit(kind: str, dit: tuple[Any, Model], same_noise: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """DiT's pipeline forgets to scale its first noise, and goes on from the network's scaled input: both are put right for Euler."""
    pipeline, model = dit
    peer = swapped(pipeline, SCHEDULERS[kind]).scheduler
    forward, scaled, scale = pipeline.transformer.forward, peer.scale_model_input, peer.init_noise_sigma

    def told(x: Tensor, timestep: Tensor, **more: Any) -> Any:
        return forward(scaled(x, timestep[0]), timestep=timestep, **more)

    monkeypatch.setattr(sys.modules[type(pipeline).__module__], "randn_tensor", lambda shape, **_: start(*shape) * scale)
    monkeypatch.setattr(peer, "scale_model_input", lambda x, t: x)
    monkeypatch.setattr(pipeline.transformer, "forward", told)
    pictures = pipeline([207], guidance_scale=4.0, num_inference_steps=STEPS, output_type="np").images
    asked = request(SCHEDULERS[kind], prompt="207", mix={"kind": "cfg", "scale": 4.0}, size=(32, 32))
    compare(ours(model, asked), theirs(pictures))


@pytest.fixture(scope="module")
def pixart(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    return pair(folders.pixart(), tmp_path_factory.mktemp("pixart"))


@pytest.mark.parametrize("kind", SCHEDULERS)
def test_pixart(kind: str, pixart: tuple[Any, Model]) -> None:
    call = {"prompt": PROMPT, "negative_prompt": NEGATIVE, "latents": start(1, 4, 16, 16), "height": 32, "width": 32}
    run(pixart, kind, call={**call, "use_resolution_binning": False, "clean_caption": False}, asked={})


IF: dict[str, Any] = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "squaredcos_cap_v2",
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}


@pytest.fixture(scope="module")
def deepfloyd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Model]:
    """DeepFloyd IF's first stage: pixels, T5, attention with added keys, learned variance."""
    peer = peers.diffusers()
    network = peers.stirred(
        peer.UNet2DConditionModel(
            sample_size=16, in_channels=3, out_channels=6, layers_per_block=1, block_out_channels=(32, 64), norm_num_groups=8,
            down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn", up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
            cross_attention_dim=32, encoder_hid_dim=32, encoder_hid_dim_type="text_proj", addition_embed_type="text",
            addition_embed_type_num_heads=4, attention_head_dim=8, act_fn="gelu", resnet_time_scale_shift="scale_shift",
            cross_attention_norm="group_norm",
        ),
        9,
    )  # fmt: skip
    made = peer.IFPipeline(
        tokenizer=folders.pieces(), text_encoder=folders.t5(), unet=network, scheduler=peer.DDPMScheduler.from_config(IF),
        safety_checker=None, feature_extractor=None, watermarker=None, requires_safety_checker=False,
    )  # fmt: skip
    return pair(made, tmp_path_factory.mktemp("if"))


@pytest.mark.parametrize("kind", ["DDPM", *SCHEDULERS])
def test_deepfloyd_if(kind: str, deepfloyd: tuple[Any, Model], same_noise: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As published, with DDPM's learned variance and the same draws in every step; and on the same table with the others."""
    table = {k: v for k, v in IF.items() if k not in ("_class_name", "variance_type")}
    if kind == "DDPM":
        monkeypatch.setitem(SCHEDULERS, kind, IF)
    else:
        # Without limits of x0 a random network explodes from this table's last entries: Euler begins below them.
        spacing = {"timestep_spacing": "leading"} if kind == "Euler" else {}
        monkeypatch.setitem(SCHEDULERS, kind, {**SCHEDULERS[kind], **table, **spacing, "variance_type": None})
    draws = torch.Generator()
    ddpm = sys.modules[peers.diffusers().DDPMScheduler.__module__]
    monkeypatch.setattr(ddpm, "randn_tensor", lambda shape, **_: torch.randn(shape, generator=draws))
    usual = Noise.normal

    def drawn(self: Noise, purpose: str, now: Any, to: Any, like: Tensor) -> Tensor:
        return usual(self, purpose, now, to, like) if purpose == "start" else torch.randn(like.shape, generator=draws)

    monkeypatch.setattr(Noise, "normal", drawn)
    pipeline, model = deepfloyd
    draws.manual_seed(1)
    pictures = swapped(pipeline, SCHEDULERS[kind])(
        [PROMPT],
        negative_prompt=[NEGATIVE],
        num_inference_steps=STEPS,
        guidance_scale=4.0,
        output_type="np",
        clean_caption=False,
    ).images
    draws.manual_seed(1)
    asked = request(SCHEDULERS[kind], prompt=PROMPT, negative=NEGATIVE, mix={"kind": "cfg", "scale": 4.0}, size=(16, 16))
    compare(ours(model, asked), theirs(pictures), grey=0.1 if kind == "Euler" else 0.5)
