"""The U-Net (Ronneberger et al. 2015) of diffusion models, as one machine.

A U-Net is a row of *stages* working on a picture and a stack of skips. A stage may take a skip from the stack (`join`), do a block, an
attention and a change of resolution, and may leave a copy on the stack (`keep`). Every U-Net of the literature is such a row; what
differs is who keeps, who joins, and where the width changes. `UNetSpec.stages` writes the row, and `UNet.draw` runs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from safelight.cond import Cond
from safelight.nn.attention import (
    Attention,
    FullAttentionSpec,
    JoinedSpec,
    LinearAttentionSpec,
    NoAttention,
    Reader,
    TextPool,
    TransformerSpec,
    Words,
)
from safelight.nn.blocks import (
    Block,
    BlockDown,
    BlockUp,
    ConvDown,
    ConvNextSpec,
    Down,
    NearestUp,
    PostNormResnetSpec,
    ResnetSpec,
    TimedBlock,
    TransposedUp,
    UnshuffleDown,
    Up,
    conv,
)
from safelight.nn.embed import Embedding, SinusoidSpec, waves
from safelight.nn.network import NetworkSpec, Output
from safelight.nn.norm import GroupNormSpec, Norm, RMSNormSpec
from safelight.nn.pad import channels_last, crop_to, from_patches, joined, pad_to, to_patches
from safelight.nn.told import Told, ToldNetwork
from safelight.spec import SpecError


class StagePlan(NamedTuple):
    """One stage: `[join] -> [block] -> [attention] -> [resample] -> [keep]`.

    inp: channels coming in, without the skip. out: channels going out. join: channels of the skip taken, 0 for none.
    block, timed: whether there is a block, and whether it hears the time. resample: -1 halves, +1 doubles the resolution, 0 keeps it;
    a block does it within itself. level: the resolution it begins at, 0 the full one. way: -1 down, 0 the middle, 1 up.
    """

    level: int
    inp: int
    out: int
    join: int = 0
    block: bool = True
    timed: bool = True
    attention: Attention = NoAttention()
    resample: int = 0
    keep: bool = False
    way: int = -1


class UNetSpec(NetworkSpec, kind="unet"):
    """A U-Net. The defaults are a modern small one; the class methods (`sd1`, `sdxl`, `adm`, ...) are those of the literature, exactly.

    Sizes: any, in 1, 2 or 3 dimensions; what 2^(levels - 1) does not divide is padded and cropped, or cut on the way (see `pad`).
    Raises SpecError in `build` when widths do not fit the norm's groups or the heads.
    """

    # What goes in and out.
    channels: int = Field(1, ge=1, description="C of the picture")
    image: int = Field(0, ge=0, description="channels of Cond.image, concatenated to the picture")
    fourier: tuple[int, ...] = Field(
        (), description="n of the waves sin(2^n pi x), cos(2^n pi x) that are seen beside the picture x"
    )
    cond: int = Field(0, ge=0, description="width of Cond.vector, 0 for none")
    numbers: int = Field(0, ge=0, description="how many of its last entries are numbers (sizes, a score), seen as waves")
    numbers_width: int = Field(256, ge=2, description="waves of each such number")
    classes: int = Field(
        0, ge=0, description="the number, which is then the only one, is a row of a table of so many; 0: it is seen as waves"
    )
    context: int = Field(0, ge=0, description="width of Cond.tokens, read by the attentions that read text; 0 for none")
    context_map: int = Field(0, ge=0, description="width that a linear map gives the words before they are read; 0 for none")
    pool_heads: int = Field(
        0, ge=0, description="heads of an attention that pools the words into the time embedding; 0 for none"
    )
    learned_variance: bool = Field(False, description="a second half of outputs, the learned-variance fraction")
    dims: int = Field(2, ge=1, le=3, description="dimensions of space")
    patch: int = Field(1, ge=1, description="side of the patches that become one place each before the first convolution")
    # Widths and depths.
    widths: tuple[int, ...] = Field((64, 128, 256), min_length=1, description="channels of each resolution, the full one first")
    stem: int | None = Field(None, ge=1, description="channels after the first convolution; none: widths[0]")
    stem_kernel: int = Field(3, ge=1, description="size of the first convolution, odd")
    depth: int | tuple[int, ...] = Field(2, description="blocks a resolution on the way down; or a number for each resolution")
    # The parts.
    block: Block = ResnetSpec()
    norm: Norm = GroupNormSpec()
    attention: tuple[Attention, ...] = Field(
        (FullAttentionSpec(head_width=64, qk_norm=True),),
        description="attention of the deepest resolutions, the deepest last; those above the named ones have none",
    )
    middle: Attention = FullAttentionSpec(head_width=64, qk_norm=True)
    down: Down = ConvDown()
    up: Up = NearestUp()
    # The noise level.
    embedding: Embedding = SinusoidSpec(width=64)
    time: int = Field(256, ge=1, description="width of the time embedding")
    time_gelu: bool = Field(False, description="GELU in the time MLP, else SiLU")
    # The wiring.
    skips: int = Field(3, ge=0, description="skips a resolution: after its last blocks; depth + 1 adds what it begins with")
    attend_each: bool = Field(True, description="attention after each block, else after a resolution's last one")
    widen_in_resampling: bool = Field(False, description="resampling changes the width, else a resolution's first block does")
    narrow_early: bool = Field(
        False, description="on the way up a block narrows before the doubling; no blocks at full resolution"
    )
    pad: bool = Field(
        True,
        description="sizes that do not halve evenly are filled up; else halves are rounded up and doubles cut to their skip",
    )
    # The end.
    tail: bool = Field(False, description="one more block before the last convolution")
    tail_timed: bool = Field(False, description="it hears the time")
    tail_skip: bool = Field(False, description="it joins the first convolution's output")
    head_norm: bool = Field(True, description="norm and SiLU before the last convolution")
    head_gelu: bool = Field(False, description="GELU there instead of SiLU")
    head_kernel: int = Field(3, ge=1, description="size of the last convolution, odd")
    zero: bool = Field(True, description="the last convolution starts at zero")

    @classmethod
    def tutorial(cls, dim: int = 28, mults: Sequence[int] = (1, 2, 4), channels: int = 1) -> Self:
        """The U-Net of "The annotated diffusion model" (Rogge and Rasul 2022) in its first form, after lucidrains' of 2021.

        7x7 convolution to dim // 3 * 2 channels; two ConvNeXt blocks and linear attention (4 heads of 32) a resolution, one skip each;
        block, full attention, block in the middle; on the way up no level for the full resolution, whose skip goes unused, so it
        is not kept here; a last block deaf to the time, and a 1x1 convolution. dim 28, 1 channel: the Fashion-MNIST example.
        """
        return cls(
            channels=channels,
            widths=tuple(dim * m for m in mults),
            stem=dim // 3 * 2,
            stem_kernel=7,
            block=ConvNextSpec(mult=2),
            norm=GroupNormSpec(groups=1),
            attention=(LinearAttentionSpec(heads=4, head_width=32),) * len(mults),
            middle=FullAttentionSpec(heads=4, head_width=32),
            down=ConvDown(kernel=4),
            up=TransposedUp(),
            embedding=SinusoidSpec(width=dim),
            time=4 * dim,
            time_gelu=True,
            skips=1,
            attend_each=False,
            narrow_early=True,
            tail=True,
            head_norm=False,
            head_kernel=1,
            zero=False,
        )

    @classmethod
    def ddpm_pytorch(cls, dim: int = 64, mults: Sequence[int] = (1, 2, 4, 8), channels: int = 3) -> Self:
        """The `Unet` of denoising-diffusion-pytorch 2.x with its defaults.

        Post-norm ResNet blocks with RMSNorm, two skips a resolution, linear attention with four learned key-value pairs and full
        attention at the deepest resolution and in the middle, pixel-unshuffle down, nearest up; the first convolution's output
        joins a last block. Resampling changes the width.
        """
        full = FullAttentionSpec(heads=4, head_width=32, memory=4)
        return cls(
            channels=channels,
            widths=tuple(dim * m for m in mults),
            stem=dim,
            stem_kernel=7,
            block=PostNormResnetSpec(),
            norm=RMSNormSpec(),
            attention=(*(LinearAttentionSpec(heads=4, head_width=32, memory=4),) * (len(mults) - 1), full),
            middle=full,
            down=UnshuffleDown(),
            up=NearestUp(),
            embedding=SinusoidSpec(width=dim),
            time=4 * dim,
            time_gelu=True,
            skips=2,
            attend_each=False,
            widen_in_resampling=True,
            tail=True,
            tail_timed=True,
            tail_skip=True,
            head_norm=False,
            head_kernel=1,
            zero=False,
        )

    @classmethod
    def ddpm(
        cls,
        widths: Sequence[int] = (128, 256, 256, 256),
        attend: Sequence[bool] = (False, True, False, False),
        channels: int = 3,
        depth: int = 2,
        head_width: int = 8,
        groups: int = 32,
        scale_shift: bool = False,
    ) -> Self:
        """The U-Net of DDPM (Ho et al. 2020, appendix B) as diffusers' `UNet2DModel` has it: a skip after every layer.

        widths: channels a resolution. attend: whether a resolution has attention; the middle always does.
        """
        full = FullAttentionSpec(head_width=head_width, bias=True)
        return cls(
            channels=channels,
            widths=tuple(widths),
            depth=depth,
            block=ResnetSpec(scale_shift=scale_shift, zero=False),
            norm=GroupNormSpec(groups=groups),
            attention=tuple(full if a else NoAttention() for a in attend),
            middle=full,
            embedding=SinusoidSpec(width=widths[0], closed=False, cos_first=True),
            time=4 * widths[0],
            skips=depth + 1,
            zero=False,
        )

    @classmethod
    def latent(
        cls,
        widths: Sequence[int],
        depths: Sequence[int],
        context: int,
        *,
        heads: int | None = None,
        head_width: int = 64,
        linear: bool = True,
        image: int = 0,
        cond: int = 0,
        numbers: int = 0,
        groups: int = 32,
    ) -> Self:
        """A U-Net of latent diffusion on four channels (Rombach et al. 2022), of which the next five are instances.

        widths: channels a resolution. depths: transformer blocks after each block of a resolution, 0 for none; the middle has as many
        as the deepest that has any. heads: their number where it is one for all, else they are of `head_width`.
        """

        def transformer(width: int, depth: int) -> TransformerSpec:
            each = width // heads if heads else head_width
            norm = GroupNormSpec(groups=groups, eps=1e-6)
            return TransformerSpec(heads=width // each, head_width=each, depth=depth, norm=norm, linear=linear)

        deepest = next((d for d in reversed(depths) if d), 1)
        return cls(
            channels=4,
            image=image,
            cond=cond,
            numbers=numbers,
            context=context,
            widths=tuple(widths),
            depth=2,
            block=ResnetSpec(scale_shift=False, zero=False),
            norm=GroupNormSpec(groups=groups),
            attention=tuple(transformer(w, d) if d else NoAttention() for w, d in zip(widths, depths, strict=True)),
            middle=transformer(widths[-1], deepest),
            embedding=SinusoidSpec(width=widths[0], closed=False, cos_first=True),
            time=4 * widths[0],
            skips=3,
            pad=False,
            zero=False,
        )

    @classmethod
    def sd1(cls, image: int = 0) -> Self:
        """Stable Diffusion 1.1 to 1.5: 859,520,964 parameters. image 5: its form for inpainting (mask and masked latents)."""
        return cls.latent((320, 640, 1280, 1280), (1, 1, 1, 0), 768, heads=8, linear=False, image=image)

    @classmethod
    def sd2(cls, image: int = 0) -> Self:
        """Stable Diffusion 2.0 and 2.1, eps and v alike: 865,910,724 parameters. image 5: for inpainting; 1: for depth maps."""
        return cls.latent((320, 640, 1280, 1280), (1, 1, 1, 0), 1024, image=image)

    @classmethod
    def sdxl(cls, image: int = 0) -> Self:
        """Stable Diffusion XL (Podell et al. 2023): 2,567,463,684 parameters.

        Cond.vector: the pooled text of 1280, and six numbers: height and width of the original, top and left of the crop, height and
        width asked for.
        """
        return cls.latent((320, 640, 1280), (0, 2, 10), 2048, image=image, cond=1280 + 6, numbers=6)

    @classmethod
    def sdxl_refiner(cls) -> Self:
        """The refiner of Stable Diffusion XL. Cond.vector: as `sdxl`'s, but one aesthetic score where that has the size asked for."""
        return cls.latent((384, 768, 1536, 1536), (0, 4, 4, 0), 1280, cond=1280 + 5, numbers=5)

    @classmethod
    def sd_upscaler(cls) -> Self:
        """Stable Diffusion's upscaler by four. Cond.image: the noisy small picture. Cond.vector: its noise level, a row of 1000.

        At two resolutions of three its blocks read the text twice and never look at the picture itself.
        """
        found = cls.latent((256, 512, 512, 1024), (0, 1, 1, 1), 1024, heads=8, image=3, cond=1, numbers=1)
        reading = [a.model_copy(update={"itself": False}) for a in found.attention[1:3]]
        looks = (found.attention[0], *reading, found.attention[3])
        return found.model_copy(update={"attention": looks, "classes": 1000})

    @classmethod
    def ddpm_cifar10(cls) -> Self:
        """DDPM on CIFAR-10 (Ho et al. 2020, appendix B): 35,746,307 parameters, attention with one head at 16x16."""
        return cls._ho((128, 256, 256, 256), 1)

    @classmethod
    def ddpm_celebahq(cls) -> Self:
        """DDPM on CelebA-HQ and LSUN at 256x256 (Ho et al. 2020, appendix B): attention with one head at 16x16."""
        return cls._ho((128, 128, 256, 256, 512, 512), 4)

    @classmethod
    def _ho(cls, widths: Sequence[int], attends: int) -> Self:
        look = FullAttentionSpec(heads=1, head_width=widths[attends], bias=True)
        norm = GroupNormSpec(eps=1e-6)
        return cls(
            channels=3,
            widths=tuple(widths),
            depth=2,
            block=ResnetSpec(scale_shift=False, zero=False, dropout=0.1 if len(widths) == 4 else 0.0),
            norm=norm,
            attention=tuple(look if i == attends else NoAttention() for i in range(len(widths))),
            middle=FullAttentionSpec(heads=1, head_width=widths[-1], bias=True),
            down=ConvDown(after=True),
            embedding=SinusoidSpec(width=widths[0]),
            time=4 * widths[0],
            skips=3,
            zero=False,
        )

    @classmethod
    def adm(cls, size: int = 256, classes: int = 1000) -> Self:
        """The ablated diffusion model on ImageNet at 64, 128, 256 or 512 (Dhariwal and Nichol 2021, table 11 and section 3).

        classes: 0 for the unconditional one. Parameters: 295,904,454, 421,529,606, 553,838,086, 558,997,638. Raises SpecError of
        another size.
        """
        published = {
            64: (192, (1, 2, 3, 4), 3),
            128: (256, (1, 1, 2, 3, 4), 2),
            256: (256, (1, 1, 2, 2, 4, 4), 2),
            512: (256, (0.5, 1, 1, 2, 2, 4, 4), 2),
        }
        if size not in published:
            raise SpecError(f"adm: there is none of size {size} (there are: {', '.join(map(str, published))})")
        base, mults, depth = published[size]

        def look(width: int) -> FullAttentionSpec:
            each = width // 4 if size == 128 else 64
            return FullAttentionSpec(heads=width // each, head_width=each, bias=True)

        widths = tuple(int(base * m) for m in mults)
        return cls(
            channels=3,
            cond=1 if classes else 0,
            numbers=1 if classes else 0,
            classes=classes,
            learned_variance=True,
            widths=widths,
            depth=depth,
            block=ResnetSpec(dropout=0.1 if size == 64 else 0.0),
            attention=tuple(NoAttention() if i < len(widths) - 3 else look(w) for i, w in enumerate(widths)),
            middle=look(widths[-1]),
            down=BlockDown(),
            up=BlockUp(),
            embedding=SinusoidSpec(width=base, closed=False, cos_first=True),
            time=4 * base,
            skips=depth + 1,
        )

    @classmethod
    def deepfloyd(cls, base: int = 704) -> Self:
        """The first stage of DeepFloyd IF at 64x64 after Imagen (Saharia et al. 2022). base: channels at full resolution, 704 for XL.

        Reads T5's words of 4096, joined to the places; pools them into the time embedding; learned variance. XL: 4.3 billion
        parameters.
        """

        def look(width: int) -> JoinedSpec:
            return JoinedSpec(heads=width // 64, head_width=64, words=GroupNormSpec())

        widths = tuple(base * m for m in (1, 2, 3, 4))
        return cls(
            channels=3,
            context=4096,
            context_map=widths[-1],
            pool_heads=64,
            learned_variance=True,
            widths=widths,
            depth=3,
            block=ResnetSpec(zero=False, gelu=True, inner_gelu=True),
            attention=(NoAttention(), *(look(w) for w in widths[1:])),
            middle=look(widths[-1]),
            down=BlockDown(),
            up=BlockUp(),
            embedding=SinusoidSpec(width=base, closed=False, cos_first=True),
            time=4 * base,
            time_gelu=True,
            skips=4,
            head_gelu=True,
            zero=False,
        )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.attention) > len(self.widths):
            raise ValueError(f"attention names {len(self.attention)} resolutions, but widths has {len(self.widths)}")
        if len(self.depths) != len(self.widths) or min(self.depths) < 1:
            raise ValueError(
                f"depth is {self.depth}: give a number from 1 on, or one for each of {len(self.widths)} resolutions"
            )
        deepest = max(self.depths)
        if self.skips > deepest + 1:
            raise ValueError(f"skips is {self.skips}, but a resolution of depth {deepest} has {deepest + 1} to give")
        if self.every and (self.widen_in_resampling or self.narrow_early):
            raise ValueError("skips of depth + 1 need widths that change in a resolution's first block, down and up")
        if self.widen_in_resampling and self.narrow_early:
            raise ValueError("widen_in_resampling and narrow_early are two answers to one question: choose one")
        if isinstance(self.down, BlockDown) != isinstance(self.up, BlockUp) or (
            isinstance(self.down, BlockDown) and not self.every
        ):
            raise ValueError("block-down and block-up go together, with skips of depth + 1")
        if not self.pad and not (self.down == ConvDown() and self.up == NearestUp() and self.every):
            raise ValueError("pad false goes with down 'conv-down' of kernel 3, up 'nearest-up' and skips of depth + 1")
        if self.tail_skip and (not self.tail or self.every):
            raise ValueError(
                "tail_skip needs tail, and skips of at most depth: else the first convolution's output is taken already"
            )
        if self.numbers > self.cond:
            raise ValueError(f"numbers is {self.numbers}, but Cond.vector has {self.cond} entries; they are its last ones")
        if self.classes and (self.cond, self.numbers) != (1, 1):
            raise ValueError(f"classes is {self.classes}: then Cond.vector is one number, the class; give cond 1 and numbers 1")
        if (self.context_map or self.pool_heads) and not self.context:
            raise ValueError("context_map and pool_heads are for words: give their width as context")
        if self.pool_heads and self.context % self.pool_heads:
            raise ValueError(f"pool_heads: {self.pool_heads} heads do not divide words of {self.context}")
        if self.context and not any(isinstance(a, TransformerSpec | JoinedSpec) for a in (*self.attention, self.middle)):
            raise ValueError(f"context is {self.context}, but no attention reads it: make one a 'transformer', or context 0")
        if any(not -8 <= n <= 16 for n in self.fourier) or len(set(self.fourier)) < len(self.fourier):
            raise ValueError(f"fourier: {list(self.fourier)} must be different whole numbers in -8..16")
        for name in ("stem_kernel", "head_kernel"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} must be odd")
        return self

    def build(self) -> UNet:
        """A U-Net with fresh weights. Raises SpecError when widths, groups and heads do not fit."""
        return UNet(self)

    @property
    def depths(self) -> tuple[int, ...]:
        """Blocks on the way down, for each resolution."""
        return self.depth if isinstance(self.depth, tuple) else (self.depth,) * len(self.widths)

    @property
    def read(self) -> int:
        """Width of the words as the attentions read them."""
        return self.context_map or self.context

    @property
    def every(self) -> bool:
        """Whether all that happens on the way down leaves a skip, the first convolution and the halvings too."""
        return self.skips > max(self.depths)

    @property
    def stride(self) -> int:
        """What sizes are padded to a multiple of."""
        return self.patch * 2 ** (len(self.widths) - 1) if self.pad else self.patch

    def stages(self) -> Iterator[StagePlan]:
        """The row of stages, from after the first convolution to before the last one."""
        levels, last = range(len(self.widths)), len(self.widths) - 1
        attention = (*(NoAttention(),) * (len(self.widths) - len(self.attention)), *self.attention)
        stem = self.stem or self.widths[0]
        enter = [stem, *self.widths[:-1]]  # the width with which each resolution begins on the way down
        within = isinstance(self.down, BlockDown)
        kept = [stem] if self.every or self.tail_skip else []  # the widths on the stack
        width = stem

        for i in levels:
            inside = enter[i] if self.widen_in_resampling else self.widths[i]
            top_unused = self.narrow_early and i == 0
            for j in range(self.depths[i]):
                keep = j >= self.depths[i] - self.skips and not top_unused
                look = attention[i] if self.attend_each or j == self.depths[i] - 1 else NoAttention()
                yield StagePlan(i, width, inside, attention=look, keep=keep)
                width = inside
                kept += [width] * keep
            if i < last or self.widen_in_resampling:
                out = self.widths[i] if self.widen_in_resampling else width
                yield StagePlan(i, width, out, block=within and i < last, resample=-1 if i < last else 0, keep=self.every)
                width = out
                kept += [width] * self.every

        yield StagePlan(last, width, width, attention=self.middle, way=0)
        yield StagePlan(last, width, width, way=0)

        for i in reversed(levels[1:] if self.narrow_early else levels):
            inside = enter[i] if self.narrow_early else self.widths[i]
            count = self.depths[i] + self.every
            for j in range(count):
                look = attention[i] if self.attend_each or j == count - 1 else NoAttention()
                yield StagePlan(i, width, inside, join=kept.pop() if j < self.skips else 0, attention=look, way=1)
                width = inside
            if i > 0 or self.widen_in_resampling:
                out = enter[i] if self.widen_in_resampling else width
                yield StagePlan(i, width, out, block=within and i > 0, resample=1 if i > 0 else 0, way=1)
                width = out

        if self.tail:
            yield StagePlan(0, width, width, join=kept.pop() if self.tail_skip else 0, timed=self.tail_timed, way=1)


class Stage(nn.Module):
    """One stage, see `StagePlan`."""

    def __init__(self, spec: UNetSpec, plan: StagePlan) -> None:
        super().__init__()
        self.plan = plan
        self.block: TimedBlock | None = None
        self.tell: nn.Linear | None = None
        self.attention: nn.Module | None = None
        self.resample: nn.Module | None = None
        if plan.block:
            self.block = spec.block.make(spec.dims, plan.inp + plan.join, plan.out, spec.norm, plan.timed, plan.resample)
            self.attention = plan.attention.make(plan.out, spec.norm, spec.read)
            if self.block.told:
                self.tell = nn.Linear(spec.time, self.block.told)
        elif plan.resample == 0:
            self.resample = conv(spec.dims, plan.inp, plan.out)
        else:
            self.resample = (spec.down if plan.resample < 0 else spec.up).make(spec.dims, plan.inp, plan.out)

    def forward(
        self,
        x: Tensor,
        skip: Tensor | None,
        told: Tensor | None,
        words: tuple[Words, ...],
        size: torch.Size | None = None,
    ) -> Tensor:
        """x: (B, C_in, *space). skip: (B, C_join, *space). told: (B or 1, ...). Returns (B, C_out, *space').

        size: space', where a doubling is to be cut to it.
        """
        if skip is not None:
            x = torch.cat((x, skip), dim=1)  # (B, C_in + C_join, *space)
        if self.block is not None:
            x = self.block(x, told)  # (B, C_out, *space)
        if self.attention is not None:
            x = self.attention(x, words)  # (B, C_out, *space)
        if self.resample is not None:
            x = self.resample(x) if size is None else self.resample(x, size)  # (B, C_out, *space / 2 or * 2)
        return x


class Trunk(ToldNetwork):
    """A stem and a row of stages, told and read: what a U-Net has, and a network that only goes its way down."""

    spec: UNetSpec

    def __init__(self, spec: UNetSpec, plans: Sequence[StagePlan]) -> None:
        super().__init__()
        self.spec = spec
        act: type[nn.Module] = nn.GELU if spec.time_gelu else nn.SiLU
        self.embedding = spec.embedding.make()
        self.time = nn.Sequential(nn.Linear(spec.embedding.width, spec.time), act(), nn.Linear(spec.time, spec.time))
        waving = spec.numbers and not spec.classes
        self.waves = spec.embedding.model_copy(update={"width": spec.numbers_width}).make() if waving else None
        wide = spec.cond + spec.numbers * (spec.numbers_width - 1)
        self.cond: nn.Module | None = None
        if spec.classes:
            self.cond = nn.Embedding(spec.classes, spec.time)
        elif spec.cond:
            self.cond = nn.Sequential(nn.Linear(wide, spec.time), act(), nn.Linear(spec.time, spec.time))
        self.project = nn.Linear(spec.context, spec.read) if spec.context_map else None
        self.pool = TextPool(spec.context, spec.time, spec.pool_heads) if spec.pool_heads else None
        cell = spec.patch**spec.dims  # the places of a patch
        seen = spec.channels * (1 + 2 * len(spec.fourier)) + spec.image
        self.stem = conv(spec.dims, seen * cell, plans[0].inp, spec.stem_kernel)
        self.stages = cast("Sequence[Stage]", nn.ModuleList(Stage(spec, plan) for plan in plans))
        self.keep_stem = spec.tail_skip or spec.every
        self._ends = _ends(plans)

    def heard(self, cond: Cond) -> Tensor | None:
        """Cond.vector (B, cond), with the pooled words behind it (B, cond + time) where the network pools them."""
        if self.spec.cond and cond.vector is None:
            raise SpecError(f"cond.vector is missing: the network was built with cond={self.spec.cond}")
        if self.pool is None:
            return cond.vector
        if cond.tokens is None:
            raise SpecError(f"cond.tokens is missing: the network was built with context={self.spec.context}")
        pooled = self.pool(cond.tokens.to(next(self.time.parameters()).dtype))  # (B, time)
        if cond.vector is None or not self.spec.cond:
            return pooled
        # In the wider type: a number of 999 is 1000 in bfloat16.
        wide = torch.promote_types(cond.vector.dtype, pooled.dtype)
        return torch.cat((cond.vector.to(wide), pooled.to(wide)), dim=1)  # (B, cond + time)

    def tell(self, noise: Tensor, vector: Tensor | None) -> Told:
        """noise: (n,); vector: (n, ...) from `heard`. What the blocks that hear the time are told, in their order."""
        dtype = next(self.time.parameters()).dtype
        emb = self.time(self.embedding(noise).to(dtype))  # (n, time)
        if self.cond is not None or self.pool is not None:
            if vector is None:
                raise SpecError(f"cond.vector is missing: the network was built with cond={self.spec.cond}")
            wide = self.spec.cond + (self.spec.time if self.pool is not None else 0)
            if vector.shape[1] != wide:
                raise SpecError(f"cond.vector is {vector.shape[1]} wide, with what is pooled: this network hears {wide}")
            vector, pooled = vector[:, : self.spec.cond], vector[:, self.spec.cond :]  # (n, cond), (n, time or 0)
            if isinstance(self.cond, nn.Embedding):
                emb = emb + self.cond(vector[:, 0].round().long())  # (n, time)
            elif self.cond is not None:
                if self.waves is not None:
                    plain, numbers = vector.split((self.spec.cond - self.spec.numbers, self.spec.numbers), dim=1)
                    seen = self.waves(numbers.flatten()).unflatten(0, numbers.shape).flatten(1)  # (n, numbers numbers_width)
                    vector = torch.cat((plain.to(seen.dtype), seen), dim=1)  # (n, wide)
                emb = emb + self.cond(vector.to(dtype))  # (n, time)
            if self.pool is not None:
                emb = emb + pooled.to(dtype)  # (n, time)
        emb = F.gelu(emb) if self.spec.block.gelu else F.silu(emb)  # (n, time)
        return tuple(stage.tell(emb) for stage in self.stages if stage.tell is not None)  # (n, its block's width) each

    def read(self, tokens: Tensor | None, mask: Tensor | None) -> tuple[tuple[Words, ...], ...]:
        """tokens: (B, L, context), mask: (B, L). The keys and values of each stage's cross-attentions."""
        if not self.spec.context:
            return ((),) * len(self.stages)
        if tokens is None:
            raise SpecError(f"cond.tokens is missing: the network was built with context={self.spec.context}")
        if self.project is not None:
            tokens = self.project(tokens.to(self.project.weight.dtype))  # (B, L, context_map)
        readers = [stage.attention if isinstance(stage.attention, Reader) else None for stage in self.stages]
        return tuple(() if r is None else r.read(tokens, mask) for r in readers)

    def begin(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        """x: (B, channels, *space), image: (B or 1, image, *space). What the first convolution makes of both, (B, C, *space')."""
        both = joined(waves(x, self.spec.fourier), image, self.spec.image)  # (B, seen, *space)
        small = to_patches(pad_to(both, self.spec.stride), self.spec.patch)  # (B, seen patch^dims, *space')
        return channels_last(self.stem(small))  # (B, C, *space')

    def descend(
        self, h: Tensor, told: Told, words: tuple[tuple[Words, ...], ...], within: Sequence[Tensor] = ()
    ) -> tuple[Tensor, list[Tensor]]:
        """The way down and the middle. h: (B, C, *space') from `begin`. Returns the middle's output and the skips, in their order.

        within: one for each resolution, and perhaps one for the middle. Each is added to what a resolution ends with: before it is
        halved where it reads words, else after, as adapters have it (Mou et al. 2023, section 3.2); the middle's to its output.
        """
        kept = [h] if self.keep_stem else []
        hear = iter(told)
        for i, (stage, w) in enumerate(zip(self.stages, words, strict=True)):
            if stage.plan.way > 0:
                break
            h = self._run(stage, h, None, next(hear) if stage.tell is not None else None, w)  # (B, C, *space'')
            if self._ends.get(i, len(within)) < len(within):
                h = h + within[self._ends[i]]
            if stage.plan.keep:
                kept.append(h)
        return h, kept

    def _run(
        self,
        stage: Stage,
        h: Tensor,
        skip: Tensor | None,
        told: Tensor | None,
        words: tuple[Words, ...],
        size: torch.Size | None = None,
    ) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(stage, h, skip, told, words, size, use_reentrant=False)
        return stage(h, skip, told, words, size)


class UNet(Trunk):
    """`head(stages(stem(x)))`, each block told `W act(MLP(embedding(noise)) + MLP(cond.vector))`; see `UNetSpec`."""

    def __init__(self, spec: UNetSpec) -> None:
        plans = list(spec.stages())
        super().__init__(spec, plans)
        width, out = plans[-1].out, spec.channels * (2 if spec.learned_variance else 1)
        self.norm = spec.norm.make(width) if spec.head_norm else None
        self.head = conv(spec.dims, width, out * spec.patch**spec.dims, spec.head_kernel)
        if spec.zero:
            for p in self.head.parameters():
                nn.init.zeros_(p)

    def draw(
        self,
        x: Tensor,
        told: Told,
        words: tuple[tuple[Words, ...], ...],
        image: Tensor | None = None,
        extra: Sequence[Tensor] = (),
        within: Sequence[Tensor] = (),
    ) -> Output:
        """x: (B, channels, *space). image: (B or 1, image, *space). F and fraction: (B, channels, *space).

        extra: one for each skip in their order, and one for the middle's output, added to them (ControlNet; Zhang et al. 2023,
        section 3.1). within: see `descend`. Raises SpecError when there are more or fewer of `extra`.
        """
        h, kept = self.descend(self.begin(x, image), told, words, within)
        if extra:
            if len(extra) != len(kept) + 1:
                raise SpecError(
                    f"extra has {len(extra)} tensors: this network has {len(kept)} skips and a middle to add them to"
                )
            kept, h = [k + e for k, e in zip(kept, extra, strict=False)], h + extra[-1]
        rising = [(stage, w) for stage, w in zip(self.stages, words, strict=True) if stage.plan.way > 0]
        hear = iter(told[len(told) - sum(stage.tell is not None for stage, _ in rising) :])
        for stage, w in rising:
            skip = kept.pop() if stage.plan.join else None  # (B, C_join, *space')
            size = kept[-1].shape[2:] if stage.plan.resample and not self.spec.pad else None
            h = self._run(stage, h, skip, next(hear) if stage.tell is not None else None, w, size)  # (B, C_out, *space'')
        if self.norm is not None:
            h = self.norm(h)  # (B, C, *space')
            h = F.gelu(h) if self.spec.head_gelu else F.silu(h)  # (B, C, *space')
        y = crop_to(from_patches(self.head(h), self.spec.patch), x)  # (B, channels or 2 channels, *space)
        if not self.spec.learned_variance:
            return Output(y)
        y, v = y.chunk(2, dim=1)  # 2 x (B, channels, *space)
        return Output(y, (v + 1) / 2)  # Nichol and Dhariwal 2021, eq. 15, with v in [-1, 1] as in their code


def _ends(plans: Sequence[StagePlan]) -> dict[int, int]:
    """After which stage of the way down which of `Trunk.descend`'s `within` is added; the middle's is the last."""
    found: dict[int, int] = {}
    levels = 1 + max(plan.level for plan in plans)
    for level in range(levels):
        row = [i for i, plan in enumerate(plans) if plan.way < 0 and plan.level == level]
        reading = [i for i in row if isinstance(plans[i].attention, TransformerSpec | JoinedSpec)]
        if row:
            found[(reading or row)[-1]] = level
    middle = [i for i, plan in enumerate(plans) if plan.way == 0]
    if middle:
        found[middle[-1]] = levels
    return found
