"""What the learned codecs share: an encoder, a decoder, and the latent's scale as measured on data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from safelight.codec.base import Codec, CodecSpec
from safelight.nn.autoencoder import Decoder, Encoder
from safelight.spec import SpecError

SETTLE = 50  # the running scale follows the last ~50 training batches


class Reconstruction(NamedTuple):
    """What a codec makes of a batch in training.

    x: (B, C, H, W) the pictures again. penalty: (B,) what keeps the latents in order, in the codec's own measure.
    """

    x: Tensor
    penalty: Tensor


class LatentSpec(CodecSpec):
    """The architecture: see nn/autoencoder.py, whose arguments these are.

    pictures: channels of a picture. latents: channels of a latent. widths: channels at each size, the largest picture
    first; the stride is patch * 2^(len(widths) - 1). fold: between sizes, fold pixels into channels and learn the rest.
    groups: of the normalisation, 0 for one that is local to a pixel. attention: in the middle. attend: the levels, 0 the
    largest, with attention behind every block. mix: 1x1 convolutions on both sides of the latent, as published (they add
    nothing that the convolutions beside them could not learn).
    """

    pictures: int = Field(3, ge=1)
    latents: int = Field(16, ge=1)
    widths: tuple[int, ...] = Field((32, 64, 128), min_length=1)
    blocks: int = Field(1, ge=1)
    patch: int = Field(2, ge=1)
    fold: bool = True
    groups: int = Field(0, ge=0)
    attention: bool = False
    mix: bool = False
    attend: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _divides(self) -> LatentSpec:
        if self.groups and any(w % self.groups for w in self.widths):
            raise ValueError(f"{self.groups} groups do not divide the widths {self.widths}")
        if any(not 0 <= i < len(self.widths) for i in self.attend):
            raise ValueError(f"attend names levels 0 to {len(self.widths) - 1}, not {self.attend}")
        for a, b in zip(self.widths, self.widths[1:], strict=False):
            if self.fold and (4 * a) % b:
                raise ValueError(
                    f"folding from {a} to {b} channels needs a multiple: {b} must divide {4 * a} (or set fold to false)"
                )
        return self


class Latent(Codec):
    """z = (features - shift) / scale, per channel, so that z has mean 0 and variance 1 over the data.

    `shift` and `scale` (latents,) are buffers: they travel with the weights. While `forward` trains they follow the data;
    `calibrate` measures them exactly.
    """

    shift: Tensor
    scale: Tensor
    seen: Tensor

    def __init__(self, spec: LatentSpec, out: int) -> None:
        super().__init__()
        self.spec = spec
        self.stride = spec.patch * 2 ** (len(spec.widths) - 1)
        shape = (spec.widths, spec.blocks, spec.patch, spec.groups, spec.fold, spec.attention, spec.attend)
        self.encoder = Encoder(spec.pictures, out, *shape)
        self.decoder = Decoder(spec.pictures, spec.latents, *shape)
        self.before = nn.Conv2d(out, out, 1) if spec.mix else nn.Identity()
        self.after = nn.Conv2d(spec.latents, spec.latents, 1) if spec.mix else nn.Identity()
        self.register_buffer("shift", torch.zeros(spec.latents))
        self.register_buffer("scale", torch.ones(spec.latents))
        self.register_buffer("seen", torch.zeros(()))  # training batches; float, as averages treat all floating buffers alike

    @property
    def reach(self) -> tuple[int, int] | None:
        """Latent cells beyond which (encoding, decoding) one place cannot change another; None when there is no such bound."""
        a, b = self.encoder.reach, self.decoder.reach
        return None if a is None or b is None else (a, b)

    def channels(self, pixels: int) -> int:
        """The latent's channels. Raises SpecError when pictures have another number of channels than the codec."""
        if pixels != self.spec.pictures:
            raise SpecError(
                f"codec: it takes pictures of {self.spec.pictures} channels, not {pixels}: set the model's channels"
            )
        return self.spec.latents

    def forward(self, x: Tensor, noise: Tensor) -> Reconstruction:
        """The training path. x: (B, C, H, W); noise: standard normal (B, latents, H/stride, W/stride)."""
        raise NotImplementedError(type(self).__name__)

    def decode(self, z: Tensor) -> Tensor:
        return self.paint(self._raw(z)).to(z.dtype)

    def features(self, x: Tensor) -> Tensor:
        """x -> what the encoder says (B, out, h, w) in float32, before shift and scale.

        Raises SpecError when the stride does not divide the picture.
        """
        h, w = x.shape[-2:]
        if h % self.stride or w % self.stride:
            s = self.stride
            fix = f"crop it to {w // s * s}x{h // s * s}, or pad it"
            raise SpecError(f"a picture of {w}x{h} does not divide by the codec's stride {s}: {fix}")
        return self.before(self.encoder(x.to(self._dtype))).float()

    def paint(self, features: Tensor) -> Tensor:
        """Features (B, latents, h, w), before shift and scale -> pixels (B, C, H, W)."""
        return self.decoder(self.after(features.to(self._dtype)))

    @torch.no_grad()
    def calibrate(self, pictures: Iterable[Tensor]) -> None:
        """Measure `shift` and `scale` on batches (B, C, H, W) of data, with the weights as they are: call it on those to be kept.

        Raises SpecError when there is no picture, or when a channel is constant (a codec that was not trained).
        """
        n, mean, square = (
            0,
            torch.zeros(self.spec.latents, dtype=torch.float64),
            torch.zeros(self.spec.latents, dtype=torch.float64),
        )
        for x in pictures:
            h = self._raw(self.encode(x)).detach().cpu().double().transpose(0, 1).flatten(1)  # (latents, values)
            k = h.shape[1]
            delta = h.mean(1) - mean
            square += h.var(1, correction=0) * k + delta**2 * (n * k / (n + k))  # Chan et al. 1983: no cancellation
            mean += delta * (k / (n + k))
            n += k
        scale = (square / max(n, 1)).sqrt()
        if not n:
            raise SpecError("codec: its scale needs pictures to be measured on")
        if bool((scale < 1e-6).any()):
            raise SpecError("codec: a latent channel is constant: train it first")
        self.shift.copy_(mean)
        self.scale.copy_(scale)

    @torch.no_grad()
    def _follow(self, features: Tensor) -> None:
        """A running mean and standard deviation per channel: exact over the first SETTLE batches, forgetting from then on."""
        h = features.detach().float().transpose(0, 1).flatten(1)  # (latents, values)
        self.seen.add_(1)
        part = 1 / self.seen.clamp(max=SETTLE)
        mean = torch.lerp(self.shift, h.mean(1), part)
        second = torch.lerp(self.scale**2 + self.shift**2, h.square().mean(1), part)
        self.shift.copy_(mean)
        self.scale.copy_((second - mean**2).clamp(min=1e-12).sqrt())

    @property
    def _dtype(self) -> torch.dtype:
        """What the weights are in: pictures and latents come as they are."""
        return next(self.encoder.parameters()).dtype

    def _raw(self, z: Tensor) -> Tensor:
        return z * self.scale.view(-1, 1, 1).to(z.dtype) + self.shift.view(-1, 1, 1).to(z.dtype)

    def _unit(self, features: Tensor) -> Tensor:
        return (features - self.shift.view(-1, 1, 1)) / self.scale.view(-1, 1, 1)
