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

from safelight.nn.attention import (
    Attention,
    FullAttentionSpec,
    LinearAttentionSpec,
    NoAttention,
    SpatialTransformer,
    TransformerSpec,
    Words,
)
from safelight.nn.blocks import (
    Block,
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
    it is done only where `block` is False. level: the resolution it begins at, 0 the full one.
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


class UNetSpec(NetworkSpec, kind="unet"):
    """A U-Net. The defaults are a modern small one; `tutorial`, `ddpm_pytorch` and `ddpm` are those of the literature, exactly.

    Sizes: any, in 1, 2 or 3 dimensions; what 2^(levels - 1) does not divide is padded and cropped. Raises SpecError in `build` when
    widths do not fit the norm's groups or the heads.
    """

    # What goes in and out.
    channels: int = Field(1, ge=1, description="C of the picture")
    image: int = Field(0, ge=0, description="channels of Cond.image, concatenated to the picture")
    fourier: tuple[int, ...] = Field(
        (), description="n of the waves sin(2^n pi x), cos(2^n pi x) that are seen beside the picture x"
    )
    cond: int = Field(0, ge=0, description="width of Cond.vector, 0 for none")
    context: int = Field(0, ge=0, description="width of Cond.tokens, read by the 'transformer' attentions; 0 for none")
    learned_variance: bool = Field(False, description="a second half of outputs, the learned-variance fraction")
    dims: int = Field(2, ge=1, le=3, description="dimensions of space")
    patch: int = Field(1, ge=1, description="side of the patches that become one place each before the first convolution")
    # Widths and depths.
    widths: tuple[int, ...] = Field((64, 128, 256), min_length=1, description="channels of each resolution, the full one first")
    stem: int | None = Field(None, ge=1, description="channels after the first convolution; none: widths[0]")
    stem_kernel: int = Field(3, ge=1, description="size of the first convolution, odd")
    depth: int = Field(2, ge=1, description="blocks a resolution on the way down")
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
    # The end.
    tail: bool = Field(False, description="one more block before the last convolution")
    tail_timed: bool = Field(False, description="it hears the time")
    tail_skip: bool = Field(False, description="it joins the first convolution's output")
    head_norm: bool = Field(True, description="norm and SiLU before the last convolution")
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

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if len(self.attention) > len(self.widths):
            raise ValueError(f"attention names {len(self.attention)} resolutions, but widths has {len(self.widths)}")
        if self.skips > self.depth + 1:
            raise ValueError(f"skips is {self.skips}, but a resolution of depth {self.depth} has {self.depth + 1} to give")
        if self.skips > self.depth and (self.widen_in_resampling or self.narrow_early):
            raise ValueError("skips of depth + 1 need widths that change in a resolution's first block, down and up")
        if self.widen_in_resampling and self.narrow_early:
            raise ValueError("widen_in_resampling and narrow_early are two answers to one question: choose one")
        if self.tail_skip and (not self.tail or self.skips > self.depth):
            raise ValueError(
                "tail_skip needs tail, and skips of at most depth: else the first convolution's output is taken already"
            )
        if self.context and not any(isinstance(a, TransformerSpec) for a in (*self.attention, self.middle)):
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
    def stride(self) -> int:
        """What sizes are padded to a multiple of."""
        return self.patch * 2 ** (len(self.widths) - 1)

    def stages(self) -> Iterator[StagePlan]:
        """The row of stages, from after the first convolution to before the last one."""
        levels, last = range(len(self.widths)), len(self.widths) - 1
        attention = (*(NoAttention(),) * (len(self.widths) - len(self.attention)), *self.attention)
        stem = self.stem or self.widths[0]
        enter = [stem, *self.widths[:-1]]  # the width with which each resolution begins on the way down
        every = self.skips > self.depth
        kept = [stem] if every or self.tail_skip else []  # the widths on the stack
        width = stem

        for i in levels:
            inside = enter[i] if self.widen_in_resampling else self.widths[i]
            top_unused = self.narrow_early and i == 0
            for j in range(self.depth):
                keep = j >= self.depth - self.skips and not top_unused
                look = attention[i] if self.attend_each or j == self.depth - 1 else NoAttention()
                yield StagePlan(i, width, inside, attention=look, keep=keep)
                width = inside
                kept += [width] * keep
            if i < last or self.widen_in_resampling:
                out = self.widths[i] if self.widen_in_resampling else width
                yield StagePlan(i, width, out, block=False, resample=-1 if i < last else 0, keep=every)
                width = out
                kept += [width] * every

        yield StagePlan(last, width, width, attention=self.middle)
        yield StagePlan(last, width, width)

        for i in reversed(levels[1:] if self.narrow_early else levels):
            inside = enter[i] if self.narrow_early else self.widths[i]
            count = max(self.depth, self.skips)
            for j in range(count):
                look = attention[i] if self.attend_each or j == count - 1 else NoAttention()
                yield StagePlan(i, width, inside, join=kept.pop() if j < self.skips else 0, attention=look)
                width = inside
            if i > 0 or self.widen_in_resampling:
                out = enter[i] if self.widen_in_resampling else width
                yield StagePlan(i, width, out, block=False, resample=1 if i > 0 else 0)
                width = out

        if self.tail:
            yield StagePlan(0, width, width, join=kept.pop() if self.tail_skip else 0, timed=self.tail_timed)


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
            self.block = spec.block.make(spec.dims, plan.inp + plan.join, plan.out, spec.norm, plan.timed)
            self.attention = plan.attention.make(plan.out, spec.norm, spec.context)
            if self.block.told:
                self.tell = nn.Linear(spec.time, self.block.told)
        elif plan.resample == 0:
            self.resample = conv(spec.dims, plan.inp, plan.out)
        else:
            self.resample = (spec.down if plan.resample < 0 else spec.up).make(spec.dims, plan.inp, plan.out)

    def forward(self, x: Tensor, skip: Tensor | None, told: Tensor | None, words: tuple[Words, ...]) -> Tensor:
        """x: (B, C_in, *space). skip: (B, C_join, *space). told: (B or 1, ...). Returns (B, C_out, *space')."""
        if skip is not None:
            x = torch.cat((x, skip), dim=1)  # (B, C_in + C_join, *space)
        if self.block is not None:
            x = self.block(x, told)  # (B, C_out, *space)
        if self.attention is not None:
            x = self.attention(x, words)  # (B, C_out, *space)
        if self.resample is not None:
            x = self.resample(x)  # (B, C_out, *space / 2 or * 2)
        return x


class UNet(ToldNetwork):
    """`head(stages(stem(x)))`, each block told `W act(MLP(embedding(noise)) + MLP(cond.vector))`; see `UNetSpec`."""

    spec: UNetSpec

    def __init__(self, spec: UNetSpec) -> None:
        super().__init__()
        self.spec = spec
        act: type[nn.Module] = nn.GELU if spec.time_gelu else nn.SiLU
        self.embedding = spec.embedding.make()
        self.time = nn.Sequential(nn.Linear(spec.embedding.width, spec.time), act(), nn.Linear(spec.time, spec.time))
        self.cond = (
            nn.Sequential(nn.Linear(spec.cond, spec.time), act(), nn.Linear(spec.time, spec.time)) if spec.cond else None
        )
        plans = list(spec.stages())
        cell = spec.patch**spec.dims  # the places of a patch
        seen = spec.channels * (1 + 2 * len(spec.fourier)) + spec.image
        self.stem = conv(spec.dims, seen * cell, plans[0].inp, spec.stem_kernel)
        self.stages = cast("Sequence[Stage]", nn.ModuleList(Stage(spec, plan) for plan in plans))
        width, out = plans[-1].out, spec.channels * (2 if spec.learned_variance else 1)
        self.norm = spec.norm.make(width) if spec.head_norm else None
        self.head = conv(spec.dims, width, out * cell, spec.head_kernel)
        self.keep_stem = spec.tail_skip or spec.skips > spec.depth
        if spec.zero:
            for p in self.head.parameters():
                nn.init.zeros_(p)

    def tell(self, noise: Tensor, vector: Tensor | None) -> Told:
        """noise: (n,); vector: (n, cond) or None. What the blocks that hear the time are told, in their order."""
        dtype = next(self.time.parameters()).dtype
        emb = self.time(self.embedding(noise).to(dtype))  # (n, time)
        if self.cond is not None:
            if vector is None:
                raise SpecError(f"cond.vector is missing: the network was built with cond={self.spec.cond}")
            emb = emb + self.cond(vector.to(dtype))  # (n, time)
        emb = F.gelu(emb) if self.spec.block.gelu else F.silu(emb)  # (n, time)
        return tuple(stage.tell(emb) for stage in self.stages if stage.tell is not None)  # (n, its block's width) each

    def read(self, tokens: Tensor | None, mask: Tensor | None) -> tuple[tuple[Words, ...], ...]:
        """tokens: (B, L, context), mask: (B, L). The keys and values of each stage's cross-attentions."""
        if not self.spec.context:
            return ((),) * len(self.stages)
        if tokens is None:
            raise SpecError(f"cond.tokens is missing: the network was built with context={self.spec.context}")
        transformers = [stage.attention if isinstance(stage.attention, SpatialTransformer) else None for stage in self.stages]
        return tuple(() if t is None else t.read(tokens, mask) for t in transformers)

    def draw(self, x: Tensor, told: Told, words: tuple[tuple[Words, ...], ...], image: Tensor | None = None) -> Output:
        """x: (B, channels, *space). image: (B or 1, image, *space). F and fraction: (B, channels, *space)."""
        both = joined(waves(x, self.spec.fourier), image, self.spec.image)  # (B, seen, *space)
        small = to_patches(pad_to(both, self.spec.stride), self.spec.patch)  # (B, seen patch^dims, *space')
        h = channels_last(self.stem(small))  # (B, C, *space')
        kept = [h] if self.keep_stem else []
        next_told = iter(told)
        for stage, w in zip(self.stages, words, strict=True):
            skip = kept.pop() if stage.plan.join else None  # (B, C_join, *space')
            t = next(next_told) if stage.tell is not None else None  # (B or 1, told)
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(stage, h, skip, t, w, use_reentrant=False)  # (B, C_out, *space'')
            else:
                h = stage(h, skip, t, w)  # (B, C_out, *space'')
            if stage.plan.keep:
                kept.append(h)
        if self.norm is not None:
            h = F.silu(self.norm(h))  # (B, C, *space')
        y = crop_to(from_patches(self.head(h), self.spec.patch), x)  # (B, channels or 2 channels, *space)
        if not self.spec.learned_variance:
            return Output(y)
        y, v = y.chunk(2, dim=1)  # 2 x (B, channels, *space)
        return Output(y, (v + 1) / 2)  # Nichol and Dhariwal 2021, eq. 15, with v in [-1, 1] as in their code
