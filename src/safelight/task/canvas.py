"""What an edit does in pixels: pictures fitted and padded, masks and their distances, holes filled, what was painted put back.

Pictures are float (B, C, H, W) in [-1, 1]; masks are bool (1, 1, H, W), True where a picture is painted anew.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.assets import Assets, as_pixels
from safelight.data.decode import as_channels
from safelight.data.transform import Crop, Fit
from safelight.model import Model
from safelight.spec import SpecError
from safelight.text.joint import Joint

Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, x: Tensor) -> Tensor:
        """The part itself, a view of x (..., H, W)."""
        return x[..., self.top : self.top + self.height, self.left : self.left + self.width]


def picture(assets: Assets, name: str, model: Model | Joint, size: tuple[int, int], fit: Fit | None = None) -> Tensor:
    """The picture of a seal as the model takes it, (1, C, H, W) on its device: grey or colour, and fitted if it has another size.

    Raises SpecError when it is not at hand, or when the model's pictures are neither grey nor of colour and it is not like them.
    """
    return as_pixels(fitted(taken(assets, name, model), size, fit or Crop()), model.device)[None]


def taken(assets: Assets, name: str, model: Model | Joint) -> Tensor:
    """The picture of a seal, uint8 (C, H, W) at its own size, with the channels that the model's pictures have.

    Raises SpecError as `picture`.
    """
    pixels, channels = assets.picture(name), model.spec.channels
    if len(pixels) == channels:
        return pixels
    if not {len(pixels), channels} <= {1, 3}:
        raise SpecError(f"picture: it has {len(pixels)} channels, the model's pictures have {channels}")
    return _chw(as_channels(pixels.permute(1, 2, 0).numpy(), channels))


def grey(assets: Assets, name: str, what: str) -> Tensor:
    """The picture of a seal in grey, uint8 (1, H, W). Raises SpecError, `what` naming it, for one that is neither grey nor of colour."""
    pixels = assets.picture(name)
    if len(pixels) not in (1, 3):
        raise SpecError(f"{what}: a grey picture, not one of {len(pixels)} channels")
    return _chw(as_channels(pixels.permute(1, 2, 0).numpy(), 1))


def fitted(pixels: Tensor, size: tuple[int, int], fit: Fit) -> Tensor:
    """uint8 (C, h, w) -> uint8 (C, H, W), on the CPU."""
    return _chw(fit(pixels.cpu().permute(1, 2, 0).numpy(), size))


def mask(assets: Assets, name: str, like: tuple[int, int], invert: bool, size: tuple[int, int], fit: Fit) -> Tensor:
    """The mask of a seal, bool (1, 1, H, W) on the CPU: True where it is white, from half grey on.

    like: (height, width) of the picture it is for. Fitted with it; a border that `pad` adds is painted.
    Raises SpecError when it is not at hand or not of the picture's size.
    """
    pixels = assets.picture(name)
    if tuple(pixels.shape[1:]) != like:
        h, w = pixels.shape[1:]
        raise SpecError(f"mask: it is {h}x{w}, the picture {like[0]}x{like[1]}; they must be of one size")
    white = (grey(assets, name, "mask").permute(1, 2, 0).numpy() >= 128) != invert
    exact = {"filter": "nearest"} | ({"fill": 255} if "fill" in type(fit).model_fields else {})
    image = fit.model_copy(update=exact)(white.astype(np.uint8) * 255, size)
    return _chw(image)[None] > 0


def padded(x: Tensor, stride: int) -> Tensor:
    """x (B, C, H, W), its last row and column repeated until `stride` divides both sides."""
    down, right = -x.shape[-2] % stride, -x.shape[-1] % stride
    return F.pad(x, (0, right, 0, down), mode="replicate") if down or right else x


def cells(hole: Tensor, stride: int) -> Tensor:
    """bool (1, 1, H/stride, W/stride): the latent cells that a mask touches."""
    return F.max_pool2d(hole.float(), stride) > 0


def distance(hole: Tensor, far: int) -> Tensor:
    """(1, 1, H, W) the distance in pixels from each masked place to the nearest kept one, no more than `far`; 0 where kept.

    Euclidean and exact, by two passes of d^2(y, x) = min_k f(y + k, x) + k^2 (Felzenszwalb and Huttenlocher 2012, section 2,
    over a bounded range). The edge of the picture is not a border of the mask.
    """
    most = float(far * far)
    d = torch.where(hole, most, 0.0)
    for turned in (False, True):
        d = d.mT if turned else d
        n = d.shape[-2]
        high = F.pad(d, (0, 0, far, far), value=most)
        for k in range(-far, far + 1):
            d = torch.minimum(d, high[..., far + k : far + k + n, :] + k * k)
        d = d.mT if turned else d
    return d.clamp(max=most).sqrt()


def ramp(hole: Tensor, feather: int) -> Tensor:
    """(1, 1, H, W) how much of the new picture is seen: 0 where kept, d / (feather + 1) at distance d inside, 1 from there on."""
    return (distance(hole, feather + 1) / (feather + 1)).clamp(max=1)


def spread(x: Tensor, known: Tensor) -> Tensor:
    """x where `known`; elsewhere a smooth continuation of it, from the finest scale on which there is anything to continue.

    Push and pull (Gortler et al. 1996, "The lumigraph", section 3.4): known places are averaged 2x2 again and again, and unknown ones
    take their value from the next coarser picture. known: bool (1, 1, H, W). 0 everywhere when nothing is known.
    """
    if bool(known.all()):
        return x
    h, w = x.shape[-2:]
    held = torch.where(known, x, 0)
    if h == w == 1:
        return held
    odd = (0, w % 2, 0, h % 2)
    weight = F.avg_pool2d(F.pad(known.to(x.dtype), odd), 2)  # (1, 1, h', w')
    pooled = F.avg_pool2d(F.pad(held, odd), 2) / weight.clamp(min=0.25)  # (B, C, h', w')
    coarse = F.interpolate(spread(pooled, weight > 0), scale_factor=2, mode="bilinear", align_corners=False)
    return torch.where(known, x, coarse[..., :h, :w])


def mean(x: Tensor, known: Tensor) -> Tensor:
    """x where `known`, elsewhere the mean colour of what is known."""
    weight = known.to(x.dtype)
    colour = (x * weight).sum((-2, -1), keepdim=True) / weight.sum().clamp(min=1)  # (B, C, 1, 1)
    return torch.where(known, x, colour)


def meeting(new: Tensor, old: Tensor, hole: Tensor, most: float) -> Tensor:
    """`new` shifted, smoothly, by what it misses of `old` along the border of the mask, by `most` at the most.

    out = new + m, m = old - new where the picture is kept, continued into the mask (Perez et al. 2003, "Poisson image editing", section 2:
    seamless cloning as new plus a membrane), which takes away the codec's error of colour. Within `most` it cannot smear a thing
    that was cut by the border.
    """
    missed = (old - new.clamp(-1, 1)).clamp(-most, most)
    return new + spread(missed, ~hole)


def around(hole: Tensor, margin: int, shape: tuple[int, int]) -> Box:
    """The mask's bounding box, `margin` pixels wider on each side and of the proportions of `shape`, as far as the picture goes.

    Raises SpecError for a mask with nothing in it.
    """
    height, width = hole.shape[-2:]
    rows, columns = (hole[0, 0].any(i).nonzero().flatten().tolist() for i in (1, 0))
    if not rows:
        raise SpecError("mask: nothing in it is to be painted")
    top, bottom = max(rows[0] - margin, 0), min(rows[-1] + 1 + margin, height)
    left, right = max(columns[0] - margin, 0), min(columns[-1] + 1 + margin, width)
    h, w = bottom - top, right - left
    h = min(max(h, -(-w * shape[0] // shape[1])), height)
    w = min(max(w, -(-h * shape[1] // shape[0])), width)
    top = min(max(top - (h - (bottom - top)) // 2, 0), height - h)
    left = min(max(left - (w - (right - left)) // 2, 0), width - w)
    return Box(top, left, h, w)


def resized(x: Tensor, size: tuple[int, int]) -> Tensor:
    """x (B, C, H, W) at another size: bicubic, averaged where it shrinks, within [-1, 1]; untouched at its own."""
    return x if tuple(x.shape[-2:]) == size else resampled(x, size, "bicubic").clamp(-1, 1)


def resampled(x: Tensor, size: tuple[int, int], by: Filter) -> Tensor:
    """x (B, C, H, W), pixels or latents, at another size; not clamped. But for `nearest` it is averaged where it shrinks.

    lanczos: y_i = sum_j w_ij x_j / sum_j w_ij, w_ij = L((j + 1/2 - (i + 1/2) n/m) / max(1, n/m)), L(u) = sinc(u) sinc(u/3) for |u| < 3,
    from n places to m along each side (Duchon 1979, "Lanczos filtering in one and two dimensions").
    """
    if by == "nearest":
        return F.interpolate(x, size, mode="nearest-exact")
    if by != "lanczos":
        return F.interpolate(x, size, mode=by, align_corners=False, antialias=True)
    rows, columns = (_lanczos(n, m).to(x) for n, m in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ columns.mT


def _lanczos(n: int, m: int) -> Tensor:
    """(m, n) the weights of n places in each of m."""
    step = max(1.0, n / m)
    centre = (torch.arange(m, dtype=torch.float64)[:, None] + 0.5) * (n / m)
    u = (torch.arange(n, dtype=torch.float64)[None] + 0.5 - centre) / step
    weight = torch.where(u.abs() < 3, torch.sinc(u) * torch.sinc(u / 3), 0.0)
    return weight / weight.sum(1, keepdim=True)


def enlarged(z: Tensor, scale: tuple[float, float], cells: tuple[int, int], by: Filter) -> Tensor:
    """Latents z (B, c, h, w) times `scale` along each side, of which the first `cells` are kept: what pads their end goes beyond it."""
    size = tuple(max(least, math.ceil(n * s - 1e-6)) for n, s, least in zip(z.shape[-2:], scale, cells, strict=True))
    return resampled(z, (size[0], size[1]), by)[..., : cells[0], : cells[1]]


def _chw(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))  # a copy: what Pillow gives is read-only


def middle(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of x (..., H, W), no larger than it: (..., *size)."""
    top, left = ((n - m) // 2 for n, m in zip(x.shape[-2:], size, strict=True))
    return Box(top, left, *size).of(x)
