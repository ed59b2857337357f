"""The codec with a Gaussian posterior: a variational autoencoder with a small KL weight."""

from __future__ import annotations

import torch
from torch import Tensor

from safelight.codec.latent import Latent, LatentSpec, Reconstruction


class KLSpec(LatentSpec, kind="kl"):
    """q(h|x) = N(mean, exp(logvar)), diagonal, both from the encoder (Kingma and Welling 2014; Rombach et al. 2022, section 3.1).

    The default (stride 8, 16 channels, 3-channel pictures) has 1,692,376 parameters.
    """

    @classmethod
    def published(cls, latents: int = 4, widths: tuple[int, ...] = (128, 256, 512, 512), mix: bool = True) -> KLSpec:
        """The shape of Stable Diffusion's autoencoders, 1, 2 and XL: stride 8, 83,653,863 parameters (appendix G, "KL-f8").

        Its x4 upscaler has `widths=(128, 256, 512)`; those of 16 channels since have `latents=16, mix=False`.
        """
        return cls(latents=latents, widths=widths, blocks=2, patch=1, groups=32, fold=False, attention=True, mix=mix)

    def build(self) -> KL:
        return KL(self)


class KL(Latent):
    """encode: the posterior's mean, or with noise mean + exp(logvar / 2) noise, shifted and scaled to unit variance."""

    def __init__(self, spec: KLSpec) -> None:
        super().__init__(spec, 2 * spec.latents)

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x -> mean and logvar (B, latents, h, w) in float32, before shift and scale; logvar within [-30, 20]."""
        mean, logvar = self.features(x).chunk(2, 1)
        return mean, logvar.clamp(-30.0, 20.0)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Raises SpecError when the stride does not divide the picture. See `Codec.encode`."""
        mean, logvar = self.posterior(x)
        h = mean if noise is None else mean + (logvar / 2).exp() * noise
        return self._unit(h).to(x.dtype)

    def forward(self, x: Tensor, noise: Tensor) -> Reconstruction:
        """penalty: KL(q(h|x) || N(0, I)) in nats, over the number of values of the picture.

        KL = 1/2 sum (mean^2 + exp(logvar) - 1 - logvar) (Kingma and Welling 2014, appendix B). Divided like a mean error is, so
        that a weight on it means the same at any size, and the same as in the published 1e-6 beside summed errors.
        """
        mean, logvar = self.posterior(x)
        if self.training and mean.requires_grad:  # the scale of an encoder that does not learn stays
            self._follow(mean)
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1) / x[0].numel()  # (B,)
        return Reconstruction(self.paint(mean + (logvar / 2).exp() * noise), kl)

    @torch.no_grad()
    def spread(self, x: Tensor) -> Tensor:
        """(latents,) the posterior's standard deviation in units of z: how much of a channel is noise that decoding bears."""
        _, logvar = self.posterior(x)
        return (logvar / 2).exp().mean((0, 2, 3)) / self.scale
