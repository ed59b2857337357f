"""The convolutional encoder and decoder of latent diffusion's first stage.

Rombach et al. 2022, "High-resolution image synthesis with latent diffusion models", section 3.1 and appendix G: levels of
residual blocks, each level half the size of the one before, a middle with optional attention, and attention on the levels
that ask for it. Beside the published shape (`patch=1, fold=False, groups=32, attention=True, mix=True`; Stable Diffusion has
`widths=(128, 256, 512, 512), blocks=2`) there are three choices that make a small one fast and local:

* `patch=p` folds p x p pixels into channels before the first convolution (pixel-unshuffle; Shi et al. 2016, eq. 4), so no
  convolution runs at full size;
* `fold=True` goes between sizes by folding pixels into channels and learning the rest (Chen et al. 2024), and adds a linear map
  around each last normalisation, so that the fresh network is linear from end to end, its blocks being identities, and need not
  first learn to carry brightness through a norm that removes it. Sprites at stride 8 after the same 34 s of one CPU core:
  21.9 dB with both, 18.6 dB without the linear maps;
* `groups=0` normalises each pixel over its channels (root mean square) instead of over the picture. Then a pixel depends on
  a bounded neighbourhood only, `reach` says which, and decoding in tiles is exact (see codec/tiled.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PixelNorm(nn.Module):
    """y_c = g_c x_c / sqrt(mean_c x_c^2 + eps), for each pixel alone (Zhang and Sennrich 2019, eq. 4, over channels).

    x: (B, C, H, W), any float dtype; the mean is taken in float32.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shape and dtype of x."""
        h = x.float()
        h = h * torch.rsqrt(h.square().mean(1, keepdim=True) + self.eps)  # (B, C, H, W)
        return (h * self.weight.view(-1, 1, 1)).to(x.dtype)


def norm(channels: int, groups: int) -> nn.Module:
    """GroupNorm over `groups` groups, or a PixelNorm when groups is 0."""
    return nn.GroupNorm(groups, channels, eps=1e-6) if groups else PixelNorm(channels)


class Residual(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), a 1x1 convolution on x where the width changes. (B, C, H, W) -> (B, D, H, W)."""

    def __init__(self, c: int, d: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(c, groups), nn.Conv2d(c, d, 3, padding=1)
        self.norm2, self.conv2 = norm(d, groups), nn.Conv2d(d, d, 3, padding=1)
        self.skip = nn.Identity() if c == d else nn.Conv2d(c, d, 1)
        nn.init.zeros_(self.conv2.weight)  # every block begins as the identity, so that deep stacks train at 1e-3
        if self.conv2.bias is not None:
            nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))  # (B, D, H, W)
        h = self.conv2(F.silu(self.norm2(h)))  # (B, D, H, W)
        return self.skip(x) + h


class Attention(nn.Module):
    """x + out(softmax(q k^T / sqrt(C)) v) over all pixels, one head. (B, C, H, W) -> the same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = norm(channels, groups)
        self.q, self.k, self.v, self.out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (f(h).flatten(2).transpose(1, 2).unsqueeze(1) for f in (self.q, self.k, self.v))  # (B, 1, HW, C)
        h = F.scaled_dot_product_attention(q, k, v).squeeze(1)  # (B, HW, C)
        return x + self.out(h.transpose(1, 2).reshape(x.shape))  # (B, C, H, W)


class Down(nn.Module):
    """Half the size: a 3x3 convolution of stride 2, padded below and to the right only, as published."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # (B, C, H/2, W/2)


class Up(nn.Module):
    """Twice the size: nearest neighbour, then a 3x3 convolution (no checkerboard; Odena et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # (B, C, 2H, 2W)


class Fold(nn.Module):
    """Half the size: fold 2x2 pixels into channels, average those in groups, and learn only the rest.

    Chen et al. 2024, "Deep compression autoencoder" (arXiv 2410.10733), section 3.1: y = conv(x) + mean of 4C/D folded ones.
    (B, C, H, W) -> (B, D, H/2, W/2); D divides 4C.
    """

    def __init__(self, c: int, d: int) -> None:
        super().__init__()
        self.d, self.conv = d, nn.Conv2d(c, d, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        folded = F.pixel_unshuffle(x, 2)  # (B, 4C, H/2, W/2)
        return self.conv(x) + folded.unflatten(1, (self.d, -1)).mean(2)  # (B, D, H/2, W/2)


class Unfold(nn.Module):
    """Twice the size, the mirror of `Fold`: y = unfold(conv(x) + x repeated). (B, C, H, W) -> (B, D, 2H, 2W); C divides 4D."""

    def __init__(self, c: int, d: int) -> None:
        super().__init__()
        self.times, self.conv = 4 * d // c, nn.Conv2d(c, 4 * d, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x) + x.repeat_interleave(self.times, 1), 2)  # (B, D, 2H, 2W)


class Middle(nn.Sequential):
    """Residual, attention, residual, at the smallest size. (B, C, h, w) -> the same."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(
            Residual(channels, channels, groups), Attention(channels, groups), Residual(channels, channels, groups)
        )


def _blocks(c: int, d: int, n: int, groups: int, attend: bool) -> list[nn.Module]:
    """n residual blocks from c to d channels, each with an attention behind it where the level attends."""
    blocks: list[nn.Module] = []
    for j in range(n):
        blocks += [Residual(d if j else c, d, groups), *([Attention(d, groups)] if attend else [])]
    return blocks


class Encoder(nn.Module):
    """Pixels (B, channels, H, W) -> features (B, out, H/f, W/f), f = patch * 2^(len(widths) - 1); H and W are multiples of f.

    blocks: residual blocks a level. out: 2z for a diagonal Gaussian of z channels, z for a codebook. fold: between levels
    `Fold`, otherwise `Down`. attention: a `Middle` after the levels. attend: the levels, 0 the largest, with attention behind
    each of their blocks.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        widths: Sequence[int],
        blocks: int,
        patch: int,
        groups: int,
        fold: bool,
        attention: bool,
        attend: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.patch, self.blocks, self.fold = patch, blocks, fold
        self.local = groups == 0 and not attention and not attend
        self.stem = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        levels, c = [], widths[0]
        for i, d in enumerate(widths):
            level = _blocks(c, d, blocks, groups, i in attend)
            c = d
            if i + 1 < len(widths):
                c = widths[i + 1] if fold else d
                level.append(Fold(d, c) if fold else Down(d))
            levels.append(nn.Sequential(*level))
        self.levels = nn.Sequential(*levels)
        self.middle = Middle(c, groups) if attention else nn.Identity()
        self.norm, self.out = norm(c, groups), nn.Conv2d(c, out, 3, padding=1)
        self.line = nn.Conv2d(c, out, 1) if fold else None

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x)  # (B, W0, H/p, W/p)
        h = self.middle(self.levels(h))  # (B, Wn, H/f, W/f)
        y = self.out(F.silu(self.norm(h)))  # (B, out, H/f, W/f)
        return y if self.line is None else y + self.line(h)

    @property
    def reach(self) -> int | None:
        """How many latent cells away a pixel can still change a latent; None when everything depends on everything."""
        if not self.local:
            return None
        n, low, high = len(self.levels), -1, 1  # the positions that latent cell 0 reads: first through the last convolution
        for i in reversed(range(n)):
            if i + 1 < n:  # output j of Fold reads 2j - 1 .. 2j + 1, of Down 2j .. 2j + 2
                low, high = (2 * low - 1, 2 * high + 1) if self.fold else (2 * low, 2 * high + 2)
            low, high = low - 2 * self.blocks, high + 2 * self.blocks
        low, high = (low - 1) * self.patch, (high + 1) * self.patch + self.patch - 1  # pixels
        stride = self.patch * 2 ** (n - 1)
        return max(-(low // stride), high // stride)


class Decoder(nn.Module):
    """Latents (B, latents, h, w) -> pixels (B, channels, f h, f w): the mirror of `Encoder`, one block more a level.

    widths: as the encoder's, from the largest picture to the smallest.
    """

    def __init__(
        self,
        channels: int,
        latents: int,
        widths: Sequence[int],
        blocks: int,
        patch: int,
        groups: int,
        fold: bool,
        attention: bool,
        attend: Sequence[int] = (),
    ) -> None:
        super().__init__()
        self.patch, self.blocks, self.fold = patch, blocks + 1, fold
        self.local = groups == 0 and not attention and not attend
        c = widths[-1]
        self.stem = nn.Conv2d(latents, c, 3, padding=1)
        self.middle = Middle(c, groups) if attention else nn.Identity()
        levels = []
        for i, d in reversed(list(enumerate(widths))):
            level = _blocks(c, d, blocks + 1, groups, i in attend)
            c = d
            if i:
                c = widths[i - 1] if fold else d
                level.append(Unfold(d, c) if fold else Up(d))
            levels.append(nn.Sequential(*level))
        self.levels = nn.Sequential(*levels)
        self.norm, self.out = norm(c, groups), nn.Conv2d(c, channels * patch**2, 3, padding=1)
        self.line = nn.Conv2d(c, channels * patch**2, 1) if fold else None

    def forward(self, z: Tensor) -> Tensor:
        h = self.levels(self.middle(self.stem(z)))  # (B, W0, H/p, W/p)
        y = self.out(F.silu(self.norm(h)))  # (B, C p^2, H/p, W/p)
        y = y if self.line is None else y + self.line(h)
        return F.pixel_shuffle(y, self.patch) if self.patch > 1 else y  # (B, C, H, W)

    @property
    def reach(self) -> int | None:
        """How many latent cells away a latent can still change a pixel; None when everything depends on everything."""
        if not self.local:
            return None
        n = len(self.levels)
        low, high = -1, 2 ** (n - 1)  # the positions, at 1/patch of full size, that the pixels of latent cell 0 read
        for i in reversed(range(n)):
            low, high = low - 2 * self.blocks, high + 2 * self.blocks
            if i:  # this level's input came through Unfold (convolve, then double) or Up (double, then convolve)
                low, high = (low // 2 - 1, high // 2 + 1) if self.fold else ((low - 1) // 2, (high + 1) // 2)
        return max(-low, high) + 1


class PatchCritic(nn.Module):
    """A critic that judges overlapping patches, not the picture: (B, C, H, W) -> logits (B, 1, H/2^n, W/2^n).

    Isola et al. 2017, "Image-to-image translation with conditional adversarial networks", section 3.2.2: convolutions 4x4 of
    stride 2 and leaky ReLU. Normalised pixel by pixel instead of over the batch, so that a picture is judged the same whoever
    else is in it, and nothing but parameters has to be kept to resume.
    """

    def __init__(self, channels: int, widths: Sequence[int] = (32, 64, 128)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        c = channels
        for i, d in enumerate(widths):
            layers += [nn.Conv2d(c, d, 4, stride=2, padding=1), *([PixelNorm(d)] if i else []), nn.LeakyReLU(0.2)]
            c = d
        self.layers = nn.Sequential(*layers, nn.Conv2d(c, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
