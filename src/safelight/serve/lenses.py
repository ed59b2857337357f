"""Lenses: what there is to see at a step of a recorded run, as pictures and as numbers.

| lens | shows |
|---|---|
| `x` | what the network sees, x_t / sqrt(alpha^2 + sigma^2), decoded |
| `x0` | what it believes, decoded |
| `noise` | the noise that it predicts, (x_t - alpha x0) / sigma, in its own space: pixels as they are, latents by a linear preview |
| `guidance` | where guidance pulls: the length of cond - null over channels, as heat |
| `attention` | where the words, or one of them, are looked at, as heat |
| `difference` | how far what is believed is from the end, over colours, as heat |
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from safelight.assets import Assets
from safelight.codec.pixels import Pixels
from safelight.denoise import Branches, Denoise, Estimate
from safelight.draw.film import shown
from safelight.draw.heat import heat
from safelight.draw.pixels import to_bytes
from safelight.guide import Mix
from safelight.guide.cfg import CFG
from safelight.guide.strength import strength
from safelight.model import Model
from safelight.process import Level
from safelight.sample import Step
from safelight.serve.attention import Heard
from safelight.spec import SpecError, nearest
from safelight.task.inpaint import Painting
from safelight.trace import Moment, Trace

LENSES = ("x", "x0", "noise", "guidance", "attention", "difference")
# The longest side of a picture in WebP.
LONGEST = 16_383
BANDS = 8
# A noise of this many standard deviations is shown as black or white.
_DEVIATIONS = 3.0
# Pictures up to this side lose nothing in a sheet; larger ones are packed for the eye.
_SMALL = 256


class Geometry(NamedTuple):
    """Where a sheet's frames lie: frame i, of the i-th recorded step, is cell (i % columns, i // columns) of width x height pixels."""

    columns: int
    rows: int
    width: int
    height: int
    frames: int


class Preview(NamedTuple):
    """A linear map from the channels of a latent to colours, weights (3, C) and offset (3,), and how well it does.

    r2: the share of the decoded pictures' variance, at the latent's resolution, that the map explains; 1 for models of pixels.
    """

    weights: Tensor
    offset: Tensor
    r2: float

    def paint(self, z: Tensor) -> Tensor:
        """z: (B, C, h, w) -> (B, 3, h, w) in [-1, 1], up to what it overshoots."""
        return self.spread(z) + self.offset[:, None, None]

    def spread(self, z: Tensor) -> Tensor:
        """The same without the offset, for what is a difference or a noise: 0 is 0."""
        return torch.einsum("kc,bchw->bkhw", self.weights, z.float())


class Recomputed(NamedTuple):
    """One step with another guidance: x0 (C, h, w) in the model's space, decoded uint8 (H, W, 3)."""

    x0: Tensor
    decoded: np.ndarray


class Lenses:
    """What is to be seen of one picture of a recorded run. Keeps what it decoded: one object serves many frames.

    heard: the attention of the run, for that lens. since: the step at which a fork was forked: those before it are its parent's, made with
    another request. Raises SpecError for a picture that the trace does not hold, and before a step.
    """

    def __init__(self, trace: Trace, model: Model, picture: int = 0, heard: Heard | None = None, *, since: int = 0) -> None:
        if not trace.steps:
            raise SpecError("the trace has no step yet")
        self.trace, self.model, self.picture, self.heard, self.since = trace, model, picture, heard, since
        # A run in parts that was stopped holds fewer pictures at its later steps.
        self.moments = {moment.k: moment for moment in trace.steps if 0 <= picture < len(trace.x0(moment.k))}
        if not self.moments:
            raise SpecError(f"picture {picture}: the run has pictures 0..{len(trace.x0(trace.steps[0].k)) - 1}")

    @property
    def available(self) -> tuple[str, ...]:
        """The lenses that this trace can show: `guidance` needs recorded branches, `attention` a run that was heard."""
        lacking = {"guidance": not self._pair, "attention": self.heard is None}
        return tuple(lens for lens in LENSES if not lacking.get(lens))

    def frame(self, lens: str, k: int, token: int | None = None) -> np.ndarray:
        """uint8 (H, W, 3), one lens at step k; of attention to one token, or to all words. Raises SpecError for what was not recorded."""
        moment = self._moment(k)
        if lens not in LENSES:
            raise SpecError(f"no lens '{lens}'{nearest(lens, LENSES)} (lenses: {', '.join(LENSES)})")
        if lens == "x":
            return self._seen[k]
        if lens == "x0":
            return self._decoded[k]
        if lens == "noise":
            return self._noise(moment)
        if lens == "guidance":
            return self._large(heat(self._pull(k) / max(self._pulls, 1e-12)))
        if lens == "difference":
            apart = np.abs(self._decoded[k].astype(np.float32) - self._final.astype(np.float32)).mean(2)
            return heat(apart / 127.5)
        if self.heard is None:
            raise SpecError("lens 'attention': this run was not heard yet: ask for its attention first")
        if k not in self.heard.steps:  # of a fork's parent: nobody listened there
            return heat(np.zeros(self._final.shape[:2], np.float32))
        return heat(self.heard.picture(token, k, self.picture, self._final.shape[:2])[..., 0] / 255)

    def geometry(self) -> Geometry:
        """Of every sheet of this picture. Rows wrap, and cells shrink by a whole number, before a sheet outgrows WebP."""
        height, width = self._final.shape[:2]
        frames = len(self.moments)
        for shrink in range(1, max(height, width) + 1):
            h, w = height // shrink, width // shrink
            columns = min(frames, LONGEST // w) if w else 0
            if h and columns and math.ceil(frames / columns) * h <= LONGEST:
                return Geometry(columns, math.ceil(frames / columns), w, h, frames)
        raise SpecError(f"{frames} frames of {width}x{height} do not fit a sheet of {LONGEST} pixels a side")

    def sheet(self, lens: str, token: int | None = None) -> tuple[bytes, Geometry]:
        """All steps of a lens in one WebP picture, and where each lies in it. Pictures of up to 256 pixels a side lose nothing."""
        where = self.geometry()
        page = np.zeros((where.rows * where.height, where.columns * where.width, 3), np.uint8)
        for i, k in enumerate(self.moments):
            frame = self.frame(lens, k, token)
            if frame.shape[:2] != (where.height, where.width):
                frame = np.asarray(Image.fromarray(frame).resize((where.width, where.height), Image.Resampling.BOX))
            top, left = i // where.columns * where.height, i % where.columns * where.width
            page[top : top + where.height, left : left + where.width] = frame
        return webp(page, max(where.width, where.height) <= _SMALL), where

    def numbers(self) -> dict[str, Any]:
        """What the charts draw. See docs/lenses.md for every number; all are JSON numbers or None.

        Of each step: k, t, alpha, sigma, logsnr (None where infinite), ms, update = rms(x_(k+1) - x_k), norm = rms(x_k), distance =
        rms(x0_k - x_n), decided = 1 - distance_k / distance_first in [0, 1], spectrum: the mean power of the decoded x0 in 8 radial
        bands of its lightness from coarse to fine, agreed: of each band the part that is as in the end, scale: of the guidance.
        Of the run: half and nine, the first steps from which on `decided` stays at or above 0.5 and 0.9; final_spectrum; exact,
        branches, scale; dial: whether null + scale (cond - null) is the whole of the guidance; r2 of the linear preview.
        """
        end = self._end
        final = _bands(self._final)
        mix, first = self.trace.request.mix, next(iter(self.moments))
        apart = {k: _rms(self._x0(k) - end) for k in self.moments}
        steps = []
        for k, moment in self.moments.items():
            now, believed = self._x(k), _bands(self._decoded[k])
            level = self.trace.levels[k]
            decided = 1 - apart[k] / apart[first] if apart[first] else 1.0
            steps.append(
                {
                    "k": k,
                    "t": moment.t,
                    "alpha": moment.alpha,
                    "sigma": moment.sigma,
                    "logsnr": _finite(float(level.logsnr)),
                    "ms": moment.milliseconds,
                    "update": _rms(self._x(k + 1) - now),
                    "norm": _rms(now),
                    "distance": apart[k],
                    "decided": min(1.0, max(0.0, decided)),
                    "spectrum": believed.power,
                    "agreed": believed.agreement(final),
                    "scale": strength(mix.scale, mix.interval, level) if isinstance(mix, CFG) and k >= self.since else None,
                }
            )
        return {
            "steps": steps,
            "half": _since(steps, 0.5),
            "nine": _since(steps, 0.9),
            "final_spectrum": final.power,
            "exact": bool(self.trace.about["exact"]),
            "branches": self.trace.branches,
            "scale": steps[-1]["scale"] if self.since else steps[0]["scale"],
            "dial": self.dial,
            "r2": self.preview.r2,
        }

    @property
    def dial(self) -> bool:
        """Whether x0 = null + scale (cond - null) is the whole of the guidance, so that a step can be recomputed from its tensors."""
        request = self.trace.request
        plain = isinstance(request.mix, CFG) and not request.mix.rescale and not request.bends
        return plain and bool(self.trace.about["exact"]) and {"cond", "null"} <= set(self.trace.branches) and not self._keeps

    @cached_property
    def preview(self) -> Preview:
        """The linear map from latents to colours that fits this run's own latents and pictures best, by least squares."""
        if isinstance(self.model.codec, Pixels):
            eye = torch.eye(3) if self.model.spec.channels == 3 else torch.ones(3, 1)
            return Preview(eye, torch.zeros(3), 1.0)
        z = torch.cat([self._x0(k) for k in self.moments] + [self._end]).float()  # (n, C, h, w)
        painted = np.stack([*self._decoded.values(), self._final])
        pictures = torch.from_numpy(painted).permute(0, 3, 1, 2).float() / 127.5 - 1
        seen = F.adaptive_avg_pool2d(pictures, (z.shape[2], z.shape[3]))  # (n, 3, h, w)
        known = z.movedim(1, 3).flatten(0, 2).double()
        known = torch.cat([known, torch.ones(len(known), 1, dtype=torch.float64)], 1)
        wanted = seen.movedim(1, 3).flatten(0, 2).double()
        # Ridge of a billionth: fewer places than channels must not make it undefined.
        square = known.T @ known
        square += 1e-9 * square.diagonal().mean() * torch.eye(len(square), dtype=torch.float64)
        found = torch.linalg.solve(square, known.T @ wanted)  # (C + 1, 3)
        left = (known @ found - wanted).square().sum()
        all_ = (wanted - wanted.mean(0)).square().sum()
        return Preview(found[:-1].T.float(), found[-1].float(), float(1 - left / all_.clamp(min=1e-12)))

    def recompute(self, k: int, mix: Mix, assets: Assets | None = None) -> Recomputed:
        """Step k with the guidance of `mix`, from the recorded branches; no network is run but what a bend asks for.

        Mix and bends are their own code, so at the recorded mix it is the recorded x0. What a task holds in place (the kept part of an
        inpainted picture) stays. Raises SpecError for traces without exact branches, and for branches that were not recorded there.
        """
        moment = self._moment(k)
        if not self.trace.about["exact"]:
            raise SpecError("this trace holds previews only; record it with branches to recompute a step")
        if k < self.since:
            raise SpecError(f"step {k} was made by the run that this is a fork of, with that one's request: recompute it there")
        x0 = self._guided(moment, mix, assets or Assets(device=self.model.device))
        if self._keeps:
            x0 = torch.where(self._held, self._x0(k), x0)
        return Recomputed(x0[0], decode(self.model, x0)[0])

    def painted(self, z: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """A latent (C, h, w), of this run or changed by hand, as the decoder and as the linear preview show it: 2 x uint8 (H, W, 3).

        Raises SpecError for one of another shape than the run's.
        """
        if z.shape != self._end.shape[1:]:
            raise SpecError(f"a latent of this run is {tuple(self._end.shape[1:])}, not {tuple(z.shape)}")
        return decode(self.model, z[None])[0], self._large(to_bytes(self.preview.paint(z[None]), "latent")[0])

    def tensors(self, k: int) -> tuple[dict[str, Any], bytes]:
        """A step's tensors for a reader without safetensors: a header {"dtype", "tensors": [{"name", "shape"}], "t", "alpha", "sigma"}
        and the numbers one after the other, float32 in little-endian order. names: x, x0, part/NAME.
        """
        moment = self._moment(k)
        found = {"x": self._x(k), "x0": self._x0(k), **{f"part/{name}": x0 for name, x0 in self._parts(k).items()}}
        header = {
            "dtype": "float32",
            "tensors": [{"name": name, "shape": list(value.shape[1:])} for name, value in found.items()],
            "t": moment.t,
            "alpha": moment.alpha,
            "sigma": moment.sigma,
        }
        return header, b"".join(value.float().contiguous().numpy().astype("<f4").tobytes() for value in found.values())

    def parts(self, k: int) -> dict[str, Tensor]:
        """The recorded branches of a step, (C, h, w) each; where guidance asked for one alone, that is `cond`."""
        return {name: x0[0] for name, x0 in self._parts(self._moment(k).k).items()}

    def x(self, k: int) -> Tensor:
        """(C, h, w) x before step k; after the last recorded step, the result."""
        return self._x(k)[0]

    def x0(self, k: int) -> Tensor:
        """(C, h, w) what was believed at step k."""
        return self._x0(self._moment(k).k)[0]

    def decoded(self, k: int | None = None) -> np.ndarray:
        """uint8 (H, W, 3) what was believed at step k, decoded; None: the end."""
        return self._final if k is None else self._decoded[self._moment(k).k]

    # ---- what is recorded ------------------------------------------------------------------------------------------------------

    def _moment(self, k: int) -> Moment:
        if k not in self.moments:
            raise SpecError(f"step {k} was not recorded (steps {min(self.moments)}..{max(self.moments)})")
        return self.moments[k]

    def _row(self, value: Tensor) -> Tensor:
        return value[self.picture : self.picture + 1].float()

    def _x(self, k: int) -> Tensor:
        return self._row(self.trace.x(k))

    def _x0(self, k: int) -> Tensor:
        return self._row(self.trace.x0(k))

    def _parts(self, k: int) -> dict[str, Tensor]:
        """The branches at step k, (1, C, h, w) each."""
        names = [name for name in self.trace.branches if self.trace.holds(f"part/{name}/{k}")]
        found = {name: self._row(self.trace.part(name, k)) for name in names}
        if "unsteered" in found and len(found) == 1:
            return {"cond": found["unsteered"]}
        if not found and not self.trace.request.bends:
            return {"cond": self._x0(k)}  # one branch alone is not mixed, so nothing more was recorded
        return found

    @property
    def _pair(self) -> tuple[str, str] | None:
        """The branches that guidance leads from and to."""
        names = self.trace.branches
        away = next((name for name in ("null", "weak") if name in names), None)
        return (away, "cond") if away and "cond" in names else None

    @cached_property
    def _decoded(self) -> dict[int, np.ndarray]:
        """uint8 (H, W, 3) a step: x0."""
        return dict(zip(self.moments, decode(self.model, torch.cat([self._x0(k) for k in self.moments])), strict=True))

    @cached_property
    def _seen(self) -> dict[int, np.ndarray]:
        """uint8 (H, W, 3) a step: x."""
        scaled = [shown(self._x(k), moment.alpha, moment.sigma) for k, moment in self.moments.items()]
        return dict(zip(self.moments, decode(self.model, torch.cat(scaled)), strict=True))

    @cached_property
    def _end(self) -> Tensor:
        """(1, C, h, w) where the run arrived, or what it believed last."""
        last = max(self.moments)
        return self._x(last + 1) if last + 2 == len(self.trace.levels) else self._x0(last)

    @cached_property
    def _final(self) -> np.ndarray:
        return decode(self.model, self._end)[0]

    # ---- lenses ----------------------------------------------------------------------------------------------------------------

    def _noise(self, moment: Moment) -> np.ndarray:
        eps = (self._x(moment.k) - moment.alpha * self._x0(moment.k)) / max(moment.sigma, 1e-12)
        seen = self.preview.spread(eps) / _DEVIATIONS
        if not isinstance(self.model.codec, Pixels):  # as bright as noise of pixels would be
            seen = seen / self.preview.weights.square().sum(1).mean().sqrt().clamp(min=1e-12)
        return self._large(to_bytes(seen, "noise")[0])

    def _pull(self, k: int) -> np.ndarray:
        """(h, w) the length of cond - null at every place; 0 where the step was not guided."""
        if self._pair is None:
            raise SpecError("lens 'guidance': the branches were not recorded; record the run with branches")
        found = self._parts(k)
        away, toward = (found.get(name) for name in self._pair)
        if away is None or toward is None:
            return np.zeros(tuple(self._end.shape[-2:]), np.float32)
        return (toward - away)[0].square().sum(0).sqrt().numpy()

    @cached_property
    def _pulls(self) -> float:
        """The strongest pull of the run: what is full heat at every step."""
        return max(float(self._pull(k).max()) for k in self.moments)

    def _large(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (h, w, 3) with the latent's cells as squares, in the picture's size."""
        height, width = self._final.shape[:2]
        return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST))

    # ---- guidance --------------------------------------------------------------------------------------------------------------

    def _guided(self, moment: Moment, mix: Mix, assets: Assets) -> Tensor:
        """(1, C, h, w) what mix and bends make of the recorded branches."""
        request, known = self.trace.request, self._parts(moment.k)

        def branches(x: Tensor, level: Level, names: tuple[str, ...]) -> Mapping[str, Estimate]:
            missing = [name for name in names if name not in known]
            if missing:
                there = f"there are {', '.join(known)}" if known else "there is none"
                raise SpecError(
                    f"step {moment.k} was recorded without branch '{missing[0]}' ({there}): go on from it in a run of its own"
                )
            return {name: Estimate(known[name]) for name in names}

        told: Branches = branches
        denoise: Denoise = mix(told)
        for bend in request.bends or ():
            denoise = bend.bind(assets, [request.pictures[self.picture]])(denoise)
        level = self.model.process.at(self.trace.levels[moment.k].t)
        return denoise(self._x(moment.k), level).x0

    @property
    def _keeps(self) -> bool:
        """Whether the task holds a part of the picture in place, outside of what mix and bends do."""
        return isinstance(self.trace.request.task, Painting)

    @cached_property
    def _held(self) -> Tensor:
        """bool (1, 1, h, w), where the task did: where mix and bends would have said something else than what was recorded."""
        mix, assets = self.trace.request.mix, Assets(device=self.model.device)
        assert mix is not None  # a trace's request is resolved
        away = [
            (self._guided(moment, mix, assets) - self._x0(k)).abs().amax(1, keepdim=True)
            for k, moment in self.moments.items()
            if k >= self.since
        ]
        return torch.stack(away).amax(0) > 1e-4


class _Bands(NamedTuple):
    """The spectrum of a picture's lightness: waves (H, W/2 + 1) complex, band (H, W/2 + 1) the number of each one's radial band."""

    waves: np.ndarray
    band: np.ndarray

    @property
    def power(self) -> list[float]:
        """The mean of |F|^2 / (H W) over each band, 0 for one that the picture is too small for."""
        return [float(v.mean()) if v.size else 0.0 for v in self._each(np.abs(self.waves) ** 2 / self.waves.size)]

    def agreement(self, end: _Bands) -> list[float | None]:
        """Of each band 1 - sum |F - F_end|^2 / sum |F_end|^2, at least 0; None for a band with nothing in it."""
        away, whole = self._each(np.abs(self.waves - end.waves) ** 2), self._each(np.abs(end.waves) ** 2)
        return [max(0.0, 1 - float(a.sum() / b.sum())) if b.sum() > 0 else None for a, b in zip(away, whole, strict=True)]

    def _each(self, values: np.ndarray) -> list[np.ndarray]:
        return [values[self.band == i] for i in range(BANDS)]


def _bands(pixels: np.ndarray) -> _Bands:
    """pixels: uint8 (H, W, 3). Bands of equal width from one wave a picture to the finest; without the mean."""
    light = (pixels.astype(np.float64) / 127.5 - 1) @ np.array((0.2126, 0.7152, 0.0722))
    height, width = light.shape
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    least = 1 / max(height, width)
    band = np.floor((radius - least) / max(0.5 - least, 1e-9) * BANDS).astype(np.int64).clip(0, BANDS - 1)
    band[0, 0] = -1
    return _Bands(np.fft.rfft2(light), band)


def _rms(value: Tensor) -> float:
    return float(value.square().mean().sqrt())


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _since(steps: list[dict[str, Any]], share: float) -> int | None:
    """The first step from which on `decided` stays at or above a share."""
    found: int | None = None
    for step in reversed(steps):
        if step["decided"] < share:
            break
        found = step["k"]
    return found


# ---- in one call -----------------------------------------------------------------------------------------------------------------


def frame(
    trace: Trace, model: Model, lens: str, k: int, picture: int = 0, heard: Heard | None = None, token: int | None = None
) -> np.ndarray:
    """uint8 (H, W, 3); see `Lenses.frame`."""
    return Lenses(trace, model, picture, heard).frame(lens, k, token)


def sheet(
    trace: Trace, model: Model, lens: str, picture: int = 0, heard: Heard | None = None, token: int | None = None
) -> tuple[bytes, Geometry]:
    """A WebP and its geometry; see `Lenses.sheet`."""
    return Lenses(trace, model, picture, heard).sheet(lens, token)


def numbers(trace: Trace, model: Model, picture: int = 0) -> dict[str, Any]:
    """What the charts draw; see `Lenses.numbers`."""
    return Lenses(trace, model, picture).numbers()


def recompute(trace: Trace, model: Model, k: int, mix: Mix, picture: int = 0, assets: Assets | None = None) -> Recomputed:
    """A step with another guidance; see `Lenses.recompute`."""
    return Lenses(trace, model, picture).recompute(k, mix, assets)


def tensors(trace: Trace, model: Model, k: int, picture: int = 0) -> tuple[dict[str, Any], bytes]:
    """A step's tensors as bytes; see `Lenses.tensors`."""
    return Lenses(trace, model, picture).tensors(k)


def live(model: Model, step: Step) -> dict[str, np.ndarray]:
    """What a run shows of itself while it goes: uint8 (B, H, W, 3) of lenses `x` and `x0` at the step that was just done."""
    alpha, sigma, _ = step.now.floats
    return {"x": decode(model, shown(step.before, alpha, sigma)), "x0": decode(model, step.estimate.x0)}


def decode(model: Model, z: Tensor) -> np.ndarray:
    """Latents (B, C, h, w) -> pictures uint8 (B, H, W, 3), eight at a time. Raises SpecError for NaN or infinity."""
    with torch.inference_mode():
        painted = torch.cat([model.codec.decode(part.to(model.device)).float().cpu() for part in z.split(8)])
    made = to_bytes(painted, "latents")
    return made if made.shape[-1] == 3 else made.repeat(3, -1)


def webp(picture: np.ndarray, lossless: bool = True) -> bytes:
    """uint8 (H, W, 3) as a WebP file; not lossless: quality 90."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "WEBP", lossless=lossless, quality=90, method=4)
    return file.getvalue()


__all__ = [
    "BANDS",
    "LENSES",
    "LONGEST",
    "Geometry",
    "Lenses",
    "Preview",
    "Recomputed",
    "decode",
    "frame",
    "live",
    "numbers",
    "recompute",
    "sheet",
    "tensors",
    "webp",
]
