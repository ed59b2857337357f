"""The codec with a codebook: a vector-quantised autoencoder whose codes are running means of what is assigned to them."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from safelight.codec.latent import Latent, LatentSpec, Reconstruction
from safelight.spec import SpecError


class VQSpec(LatentSpec, kind="vq"):
    """van den Oord et al. 2017, "Neural discrete representation learning", with the codebook of its appendix A.1.

    codes: K. decay: gamma of the running means. revive: a code assigned fewer than this many vectors a batch (running mean) is
    dead and begins anew at a vector of the batch (Dhariwal et al. 2020, "Jukebox", section 3.1). snap: encoding gives the nearest
    code; without, the encoder's feature as it is, the codebook being the decoder's (Rombach et al. 2022, section 3.1, "VQ-reg").
    """

    latents: int = Field(4, ge=1)
    widths: tuple[int, ...] = Field((48, 96), min_length=1)
    codes: int = Field(1024, ge=2)
    decay: float = Field(0.99, ge=0, lt=1)
    revive: float = Field(0.1, ge=0)
    snap: bool = True

    def build(self) -> VQ:
        return VQ(self)


class VQ(Latent):
    """encode: the code nearest to the encoder's feature (or that feature, see `VQSpec.snap`), shifted and scaled to unit variance. decode:
    of the code nearest to z.

    Since decoding begins at the nearest code, a diffusion model's z needs to be right only to within a code's cell. There is no
    posterior: `noise` changes nothing.
    """

    codebook: Tensor
    count: Tensor
    total: Tensor

    def __init__(self, spec: VQSpec) -> None:
        super().__init__(spec, spec.latents)
        # No gradient reaches these: the codes are not trained, they follow. All begin dead, so the first batch gives them.
        self.register_buffer("codebook", torch.zeros(spec.codes, spec.latents))
        self.register_buffer("count", torch.zeros(spec.codes))
        self.register_buffer("total", torch.zeros(spec.codes, spec.latents))

    def nearest(self, features: Tensor) -> Tensor:
        """features (B, latents, h, w) -> the number of the nearest code (B, h, w): argmin_k |f - c_k|^2."""
        f = features.movedim(1, -1)  # (B, h, w, latents)
        with torch.autocast(f.device.type, enabled=False):
            distance = (
                self.codebook.float().square().sum(1) - 2 * f.float() @ self.codebook.float().T
            )  # (B, h, w, K), less |f|^2
        return distance.argmin(-1)

    def tokens(self, x: Tensor) -> Tensor:
        """Pictures as numbers (B, h, w) in [0, codes): the input of discrete diffusion."""
        return self.nearest(self.features(x))

    def embed(self, tokens: Tensor) -> Tensor:
        """Numbers (B, h, w) -> z (B, latents, h, w), float32. Raises SpecError for a floating tensor."""
        if tokens.is_floating_point():
            raise SpecError("codec: tokens are whole numbers; a latent z goes to decode")
        return self._unit(self._codes(tokens))

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        """Raises SpecError when the stride does not divide the picture. See `Codec.encode`."""
        f = self.features(x)
        return self._unit(self._codes(self.nearest(f)) if self.spec.snap else f).to(x.dtype)

    def decode(self, z: Tensor) -> Tensor:
        codes = self._codes(self.nearest(self._raw(z.float())))
        return self.paint(codes.to(z.dtype)).to(z.dtype)

    def forward(self, x: Tensor, noise: Tensor | None = None) -> Reconstruction:
        """penalty: |f - sg(c)|^2, the mean over the latent's values: what commits the encoder to its codes (eq. 3, third term).

        The decoder sees the codes; the encoder gets the decoder's gradient as if they were its features (straight-through).
        """
        f = self.features(x)
        learns = self.training and f.requires_grad  # the codes and the scale of an encoder that does not learn stay
        if learns:
            self._learn(f.detach())
        code = self._codes(self.nearest(f)).detach()
        if learns:
            self._follow(code)
        return Reconstruction(self.paint(f + (code - f).detach()), (f - code).square().flatten(1).mean(1))

    @property
    def perplexity(self) -> Tensor:
        """exp of the entropy of how often codes are used, by the running counts: `codes` when all are used alike, else less."""
        p = self.count / self.count.sum().clamp(min=1e-12)
        return (-(p * p.clamp(min=1e-12).log()).sum()).exp()

    def _codes(self, tokens: Tensor) -> Tensor:
        return self.codebook[tokens].movedim(-1, 1).float()  # (B, h, w, latents) -> (B, latents, h, w)

    @torch.no_grad()
    def _learn(self, features: Tensor) -> None:
        """N_k <- g N_k + (1 - g) n_k,  m_k <- g m_k + (1 - g) sum f,  c_k = m_k / N_k  (appendix A.1, eq. 6-8), then revive."""
        f = features.movedim(1, -1).flatten(0, -2)  # (N, latents)
        token = self.nearest(features).flatten()  # (N,)
        n = torch.zeros_like(self.count).index_add_(0, token, torch.ones_like(f[:, 0]))
        total = torch.zeros_like(self.total).index_add_(0, token, f)
        self.count.lerp_(n, 1 - self.spec.decay)
        self.total.lerp_(total, 1 - self.spec.decay)
        # A dead code begins at some vector of the batch. Which one: spread by a multiplicative hash of (code, batch number), not
        # drawn, so that a resumed run repeats it without a generator. A newborn weighs a fair share of a batch, and twice the bar.
        k = torch.arange(len(self.count), device=f.device)
        batch = self.seen.to(torch.int64)
        pick = f[(k * 2_654_435_761 + batch * 40_503) % len(f)]  # (K, latents)
        fair = max(len(f) / len(self.count), 2 * self.spec.revive)
        dead = self.count < torch.where(self.seen > 0, self.spec.revive, float("inf"))
        self.count.copy_(torch.where(dead, fair, self.count))
        self.total.copy_(torch.where(dead[:, None], pick * fair, self.total))
        self.codebook.copy_(self.total / self.count.clamp(min=1e-6)[:, None])
