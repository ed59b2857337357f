"""Training a codec: reconstruct, keep the latents in order, and if wanted please a perceptual eye and a critic of patches.

Rombach et al. 2022, section 3.1 and appendix G; Esser et al. 2021, "Taming transformers for high-resolution image synthesis",
eq. 5-7. Only the codec learns; the rest of the model is frozen.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from safelight.codec import Codec
from safelight.codec.latent import Latent
from safelight.model import Model, locate
from safelight.nn.autoencoder import PatchCritic
from safelight.spec import SpecError
from safelight.text.joint import Joint, load
from safelight.train.keys import generator, key
from safelight.train.objective import Batch, Draws, Objective, Player


class Autoencode(Objective, kind="autoencode"):
    """One value a picture, every part a mean over its values (pictures in [-1, 1]):

        l1 |x' - x| + l2 (x' - x)^2 + gradient (|dx (x' - x)| + |dy (x' - x)|) + order penalty + perceptual P + adversarial A

    x' the reconstruction from a sampled latent; dx, dy differences of neighbours, which ask for edges in their places. penalty:
    the codec's own, the KL divergence in nats a value of the picture (kl) or the commitment (vq). P: the mean squared distance
    of the features that a picture tower trained here has of x' and x, each token's scaled to length 1 (Zhang et al. 2018, eq. 1).
    A = -D(x'), averaged over patches; the critic D learns max(0, 1 - D(x)) + max(0, 1 + D(x')) beside it (hinge, eq. 7 there).

    encoder: whether the encoder learns too. Without it the decoder alone does, on latents that stay what they are, scale included,
    so that a denoiser of these latents stays right. eye: the file of a joint model, or its name, for P. warmup: critic and A come in
    after so many optimizer steps, when x' is a picture. seed: of the critic's first weights.
    """

    l1: float = Field(1.0, ge=0)
    l2: float = Field(1.0, ge=0)
    gradient: float = Field(1.0, ge=0)
    order: float = Field(1e-3, ge=0)
    perceptual: float = Field(0.0, ge=0)
    eye: str | None = None
    adversarial: float = Field(0.0, ge=0)
    critic: tuple[int, ...] = Field((32, 64, 128), min_length=1)
    warmup: int = Field(1000, ge=0)
    seed: int = Field(0, ge=0)
    encoder: bool = True

    def prepare(self, model: Model) -> list[Player]:
        """One player, the codec; with an adversarial weight a second, the critic, whose parameters are called `critic.*`.

        Raises SpecError for a codec that does not learn, or a perceptual weight without an eye.
        """
        codec = learned(model.codec)
        if self.perceptual and not self.eye:
            raise SpecError("objective.eye: a perceptual weight needs the file of a joint model to look with")
        model.requires_grad_(False)
        codec.requires_grad_(True)
        if not self.encoder:
            for part in (codec.encoder, codec.before):
                part.requires_grad_(False)
        eye = _Eye(load(locate(self.eye), device=model.device)) if self.perceptual and self.eye else None
        mine = [(f"codec.{name}", p) for name, p in codec.named_parameters() if p.requires_grad]
        if not self.adversarial:
            return [Player(mine, _Painter(self, eye, None))]
        with torch.random.fork_rng(devices=[]):  # the critic begins the same in every run of this seed
            torch.manual_seed(key(self.seed, "critic"))
            critic = PatchCritic(codec.spec.pictures, self.critic)
        critic.to(model.device).train()
        theirs = [(f"critic.{name}", p) for name, p in critic.named_parameters()]
        return [Player(mine, _Painter(self, eye, critic)), Player(theirs, _Judge(critic, codec))]

    def see(self, model: Model, x: Tensor) -> Tensor:
        """The pictures themselves: this objective encodes them."""
        return x

    def parts(self, model: Model) -> list[nn.Module]:
        """The codec."""
        return [model.codec]

    def draw(self, model: Model, like: Tensor, seed: int, step: int) -> Draws:
        """eps: the posterior's noise, of the latents' shape. t: 1 for every picture once the warm-up is over, 0 before."""
        shape = _latents(learned(model.codec), like)
        eps = torch.randn(shape, generator=generator(like.device, seed, step, "noise"), device=like.device, dtype=like.dtype)
        ready = 1.0 if step >= self.warmup else 0.0
        return Draws(torch.full((len(like),), ready, dtype=torch.float64), eps, torch.zeros(len(like), dtype=torch.bool))

    def fixed(self, model: Model, u: Tensor, eps: Tensor) -> Draws:
        """The draws of a held-out loss: the posterior's mode, and no critic, whose taste changes as it learns."""
        mode = eps.new_zeros(_latents(learned(model.codec), eps))
        return Draws(torch.zeros(len(u), dtype=torch.float64), mode, torch.zeros(len(u), dtype=torch.bool))

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        """(B,) the reconstruction and order terms alone, without eye and critic: what held-out pictures are judged by."""
        return _Painter(self, None, None)(model, batch, draws)


class _Painter:
    """The codec's loss."""

    def __init__(self, objective: Autoencode, eye: _Eye | None, critic: PatchCritic | None) -> None:
        self.objective, self.eye, self.critic = objective, eye, critic

    def __call__(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        o, x = self.objective, batch.x0
        again, penalty = model.codec(x, draws.eps)
        again = again.float()  # sums of small differences are taken in float32 under autocast too
        error = again - x  # (B, C, H, W)
        loss = o.order * penalty
        if o.l1:
            loss = loss + o.l1 * error.abs().flatten(1).mean(1)
        if o.l2:
            loss = loss + o.l2 * error.square().flatten(1).mean(1)
        if o.gradient:
            along = error.diff(dim=-1).abs().flatten(1).mean(1) + error.diff(dim=-2).abs().flatten(1).mean(1)
            loss = loss + o.gradient * along
        if self.eye is not None:
            loss = loss + o.perceptual * self.eye.distance(again, x)
        if self.critic is not None:
            ready = draws.t.to(x.device, torch.float32, non_blocking=True)  # (B,) 0 or 1: no branch, so nothing waits
            loss = loss - o.adversarial * ready * self.critic(again).float().flatten(1).mean(1)
        return loss


class _Judge:
    """The critic's loss; the codec is only looked at."""

    def __init__(self, critic: PatchCritic, codec: Latent) -> None:
        self.critic, self.codec = critic, codec

    def __call__(self, model: Model, batch: Batch, draws: Draws) -> Tensor:
        x = batch.x0
        with torch.no_grad():
            again = self.codec.decode(self.codec.encode(x, draws.eps))
        true, false = self.critic(torch.cat([x, again.to(x.dtype)])).float().flatten(1).chunk(2)  # (B, patches) each
        ready = draws.t.to(x.device, torch.float32, non_blocking=True)
        return ready * (F.relu(1 - true).mean(1) + F.relu(1 + false).mean(1))


class _Eye:
    """A picture tower, frozen."""

    def __init__(self, joint: Joint) -> None:
        self.tower = joint.pair.image.eval().requires_grad_(False)

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """(B,) mean over layers and tokens of |f(a) - f(b)|^2, f of length 1."""
        with torch.no_grad():
            target = [F.normalize(f.float(), dim=-1) for f in self.tower.features(b)]
        found = [F.normalize(f.float(), dim=-1) for f in self.tower.features(a)]
        return torch.stack([(f - t).square().sum(-1).mean(1) for f, t in zip(found, target, strict=True)]).mean(0)


class Fidelity(NamedTuple):
    """psnr: (N,) dB of each picture, 10 log10(4 / mean squared error), values in [-1, 1]. pictures: (N, C, H, W) as rebuilt."""

    psnr: Tensor
    pictures: Tensor


@torch.no_grad()
def fidelity(codec: Codec, pictures: Tensor, batch: int = 256) -> Fidelity:
    """How well `codec` keeps pictures (N, C, H, W) in [-1, 1], from the posterior's mode, clipped to [-1, 1].

    The mean of `psnr` is the codec's number on them; an exact copy counts 100 dB.
    """
    again = torch.cat([codec.decode(codec.encode(x)).clamp(-1, 1) for x in pictures.split(batch)])
    error = (again - pictures).double().square().flatten(1).mean(1)
    return Fidelity(10 * (4 / error.clamp(min=4e-10)).log10(), again)


def _latents(codec: Latent, x: Tensor) -> tuple[int, int, int, int]:
    """The shape of the latents of pictures x."""
    return len(x), codec.channels(x.shape[1]), x.shape[2] // codec.stride, x.shape[3] // codec.stride


def learned(codec: Codec) -> Latent:
    """The codec as one that learns. Raises SpecError for `pixels`, which has nothing to learn."""
    if not isinstance(codec, Latent):
        raise SpecError(f"objective: the codec '{codec.spec.kind}' has nothing to learn: give the model a codec kl or vq")
    return codec
