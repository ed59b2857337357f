"""`sprites-unet`: the model that ships. A latent diffusion model in miniature: text and cross-attention, on 8x8 latents.

Rectified flow with logit-normal times (Esser et al. 2024), a text tower that learns with the denoiser, 10 % of the captions
dropped. Times lie a little higher than theirs, where the layout is decided, and one word of each pair of relations comes more
often than the other, without which the order of two things is not learned (docs/LOG.md). This is the plan for one CPU core: 48
concepts in 4 styles. On an accelerator give it the whole vocabulary:
`--set data.vocabulary.concepts=null --set plan.images=20000000 --set plan.batch=1024`.
"""

from __future__ import annotations

from safelight.codec.base import CodecSpec
from safelight.codec.kl import KLSpec
from safelight.data.composed import REDUCED, ScenesSource
from safelight.data.scenes.splits import Split
from safelight.grid import Shifted
from safelight.guide.cfg import CFG
from safelight.model import Defaults, ModelSpec
from safelight.nn.attention import NoAttention, TransformerSpec
from safelight.nn.network import NetworkSpec
from safelight.nn.unet import UNetSpec
from safelight.predict import Velocity
from safelight.process.continuous import Flow
from safelight.sample.dpm import DPM2M
from safelight.text.clip import CLIPTextSpec
from safelight.train import Every, Plan, Train
from safelight.train.ema import Power
from safelight.train.objective import Match
from safelight.train.optim import AdamW
from safelight.train.optim import Cosine as Falling
from safelight.train.times import LogitNormal

# Width of the text tower, whose states are the context and whose pooled state is the vector.
WIDTH = 192

# Per cent of single things, painted ones, sizes, corners, counts and relations; weights of left, right, above and below.
MIX = (36, 14, 5, 5, 15, 25)
RELATIONS = (3, 1, 3, 1)

PROMPTS = (
    "three red apples on a blue background", "a cat on a yellow background, flat style", "a blue umbrella on a white background",
    "a dog to the left of a rocket on a green background", "a banana above a soccer ball on a purple background",
    "two owls on a pink background", "a small penguin on a red background", "a star in the top left corner on a black background",
)  # fmt: skip


def text() -> CLIPTextSpec:
    """The language: a CLIP tower in which every word sees the whole prompt."""
    return CLIPTextSpec(width=WIDTH, causal=False)


def unet() -> UNetSpec:
    """Self- and cross-attention at 8x8 and 4x4."""
    each = TransformerSpec(head_width=32, qk_norm=True, places=True)
    return UNetSpec(
        channels=16, widths=(64, 160), depth=1, skips=2, context=WIDTH, cond=WIDTH, attention=(each, each), middle=NoAttention()
    )


def model(codec: CodecSpec | None = None, network: NetworkSpec | None = None) -> ModelSpec:
    """The model: what the sprites recipes share. The denoiser's defaults are the U-Net's."""
    return ModelSpec(
        network=network or unet(),
        process=Flow(),
        parameterization=Velocity(),
        codec=codec or KLSpec(),
        text=text(),
        channels=3,
        size=(64, 64),
        defaults=Defaults(steps=20, sampler=DPM2M(), grid=Shifted(shift=2.0), mix=CFG(scale=3.0)),
    )


def run(name: str, notes: str, spec: ModelSpec) -> Train:
    """A denoiser's run on the reduced vocabulary: what these recipes share."""
    return Train(
        name=name,
        notes=notes,
        model=spec,
        data=ScenesSource(vocabulary=REDUCED, mix=MIX, relations=RELATIONS),
        held_out_data=ScenesSource(vocabulary=REDUCED, split=Split.HELD, seed=999, count=1024),
        start={"codec": "runs/sprites-vae"},
        objective=Match(times=LogitNormal(mean=0.4, std=1.2), drop=0.1),
        prompts=PROMPTS,
        plan=Plan(
            batch=64,
            images=640_000,
            optimizer=AdamW(lr=1e-3, betas=(0.9, 0.99), weight_decay=0.01),
            schedule=Falling(warmup=300),
            averages={"ema": Power(sigma_rel=0.05)},
            clip=1.0,
            precision="bf16",
            channels_last=True,
            every=Every(log=50, held_out=1000, sample=1000, save=250),
        ),
    )


def recipe() -> Train:
    """10,000 steps of 64, about 100 minutes of one core that multiplies in bfloat16."""
    return run(
        "sprites-unet", "Text to image on sprite scenes: latent U-Net with cross-attention, reduced vocabulary.", model()
    )
