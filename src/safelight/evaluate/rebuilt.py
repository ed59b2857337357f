"""How well codecs rebuild what they never saw: scenes of the 100 concepts that no codec trains on, several codecs side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from safelight.codec import Codec
from safelight.codec.vq import VQ
from safelight.data.composed import Vocabulary
from safelight.data.scenes.compose import Composer, Scenes
from safelight.data.scenes.splits import Split, codec_held
from safelight.data.scenes.words import SINGLE, STYLES, TEMPLATES
from safelight.draw.grid import sheet
from safelight.draw.pixels import to_bytes
from safelight.spec import SpecError
from safelight.train.autoencode import fidelity

FORMAT = 1
BAR: Final = 27.0  # dB, of the codec that ships
ERROR: Final = 8  # errors are drawn so many times as large
_ACROSS = 20  # pictures a row of the sheet
_DRAWS = 40_000  # scenes looked through for one of each concept


class Rebuilt(NamedTuple):
    """numbers: the result, as JSON takes it. pictures: (100, 3, 64, 64) uint8, one a concept; again: what each codec makes of
    them, float in [-1, 1]."""

    numbers: dict[str, Any]
    pictures: Tensor
    again: dict[str, Tensor]


def held_out(composer: Composer, count: int, seed: int) -> Scenes:
    """`count` scenes of the concepts no codec trains on. Raises SpecError when the vocabulary has none of them."""
    if not bool(composer.held.codec.any()):
        raise SpecError("codec: this vocabulary has none of the 100 concepts that are held out of every codec")
    return composer.draw(seed, 0, count, Split.CODEC_HELD)


def one_each(composer: Composer, seed: int) -> Scenes:
    """One scene of one thing for every held-out concept, in the order of their names."""
    scenes = held_out(composer, _DRAWS, seed)
    lone = scenes.rows(scenes.template == SINGLE)
    concept = lone.concept[:, 0]
    first = [int((concept == c).nonzero()[0, 0]) for c in concept.unique().tolist()]
    return lone.rows(torch.tensor(first, device=concept.device))


def rebuilt(codecs: Mapping[str, Codec], *, count: int = 1000, seed: int = 7, batch: int = 50) -> Rebuilt:
    """Measure codecs by name on `count` pictures of held-out concepts, decoded from the posterior's mode, clipped.

    psnr: the mean over pictures of 10 log10(4 / mse), values in [-1, 1]; pooled: 10 log10(4 / mean of the mse), which bad
    pictures dominate; worst: the 5th percentile. All in dB. shrunk: what means of 4x4 pixels and bilinear enlargement get, a codec of
    768 numbers that learned nothing. Raises SpecError for no codec, and for one of other pictures.
    """
    if not codecs:
        raise SpecError("codec: give at least one model whose codec is to be measured")
    composer = Composer(Vocabulary(concepts=tuple(sorted(codec_held()))).pack())
    scenes = held_out(composer, count, seed)
    x = composer.render(scenes).float() / 127.5 - 1
    few = composer.render(one_each(composer, seed))
    numbers: dict[str, Any] = {
        "format": FORMAT, "what": "codec", "pictures": count, "concepts": len(scenes.concept[:, 0].unique()), "seed": seed,
        "bar": BAR, "shrunk": _quality(_psnr(_shrunk(x), x), scenes, composer), "codecs": {},
    }  # fmt: skip
    again = {}
    for name, codec in codecs.items():
        there = next((p.device for p in codec.parameters()), x.device)
        began = time.perf_counter()
        psnr = fidelity(codec, x.to(there), batch).psnr.cpu()
        each = 1000 * (time.perf_counter() - began) / count
        numbers["codecs"][name] = {**_quality(psnr, scenes, composer), **_about(codec, x.to(there)), "milliseconds": each}
        again[name] = fidelity(codec, (few.float() / 127.5 - 1).to(there), batch).pictures.cpu()
    return Rebuilt(numbers, few, again)


def _shrunk(x: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(x, 4), scale_factor=4, mode="bilinear", align_corners=False)


def _psnr(y: Tensor, x: Tensor) -> Tensor:
    """(N,) dB of pictures in [-1, 1]."""
    return 10 * (4 / (y - x).double().square().flatten(1).mean(1).clamp(min=4e-10)).log10()


def _quality(psnr: Tensor, scenes: Scenes, composer: Composer) -> dict[str, Any]:
    """What (N,) dB come to."""
    mse = 4 / 10 ** (psnr.double() / 10)
    concept = scenes.concept[:, 0]
    each = {composer.pack.concepts[c]: psnr[concept == c].mean().item() for c in concept.unique().tolist()}
    hardest = sorted(each, key=lambda name: each[name])[:5]
    return {
        "psnr": psnr.mean().item(),
        "pooled": 10 * math.log10(4 / mse.mean().item()),
        "worst": torch.quantile(psnr, 0.05).item(),
        "styles": {s: psnr[scenes.style == k].mean().item() for k, s in enumerate(STYLES) if bool((scenes.style == k).any())},
        "templates": {
            t: psnr[scenes.template == k].mean().item() for k, t in enumerate(TEMPLATES) if bool((scenes.template == k).any())
        },
        "hardest": {name: each[name] for name in hardest},
    }


@torch.no_grad()
def _about(codec: Codec, x: Tensor) -> dict[str, Any]:
    """The latent's shape, the weights, and of a codebook how much of it these pictures use."""
    z = codec.encode(x[:1])
    about: dict[str, Any] = {
        "kind": codec.spec.kind, "latent": list(z.shape[1:]), "values": z[0].numel(), "of": x[0].numel(),
        "parameters": sum(p.numel() for p in codec.parameters()),
    }  # fmt: skip
    if isinstance(codec, VQ):
        tokens = torch.cat([codec.tokens(part).flatten() for part in x.split(50)])
        p = torch.bincount(tokens, minlength=codec.spec.codes).double() / len(tokens)
        entropy = -(p * p.clamp(min=1e-12).log2()).sum().item()
        about |= {
            "codes": codec.spec.codes, "used": int((p > 0).sum()), "perplexity": 2**entropy,
            "bits": z.shape[2] * z.shape[3] * math.log2(codec.spec.codes),
        }  # fmt: skip
    return about


def picture(found: Rebuilt, note: str = "") -> Image.Image:
    """The sheet: twenty concepts across; under the originals a row for what each codec rebuilds and one for its error."""
    original = torch.from_numpy(to_bytes(found.pictures).transpose(0, 3, 1, 2).copy())
    bands = {"original": original}
    for name, again in found.again.items():
        bytes_ = torch.from_numpy(to_bytes(again).transpose(0, 3, 1, 2).copy())
        wrong = (bytes_.int() - original.int()).abs() * ERROR
        bands |= {name: bytes_, f"{name}: error x{ERROR}": wrong.clamp(max=255).to(torch.uint8)}
    cells, rows = [], []
    across = min(_ACROSS, len(original))
    blank = torch.full_like(original[:1], 255)
    for first in range(0, len(original), across):
        for name, band in bands.items():
            row = band[first : first + across]
            cells.append(torch.cat([row, blank.expand(across - len(row), -1, -1, -1)]))
            rows.append(name)
    return sheet(
        torch.cat(cells),
        columns=across,
        rows=rows,
        scale=1,
        gap=2,
        title=f"{len(original)} concepts no codec was trained on",
        note=note,
    )


def table(numbers: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    names = {**numbers["codecs"], "4x4 means": numbers["shrunk"]}
    styles = list(numbers["shrunk"]["styles"])
    lines = [
        f"| codec | numbers of {12288:,} | weights | PSNR, mean dB | pooled | 5th percentile | {' | '.join(styles)} | ms |",
        "|---|" + "---:|" * (6 + len(styles)),
    ]
    for name, row in names.items():
        values, weights, ms = row.get("values", 768), row.get("parameters", 0), row.get("milliseconds")
        each = " | ".join(f"{row['styles'][style]:.2f}" for style in styles)
        lines.append(
            f"| {name} | {values:,} | {weights:,} | **{row['psnr']:.2f}** | {row['pooled']:.2f} | {row['worst']:.2f} | {each} "
            f"| {'' if ms is None else f'{ms:.1f}'} |"
        )
    best = max(row["psnr"] for row in numbers["codecs"].values())
    text = [
        "\n".join(lines),
        f"{numbers['pictures']:,} scenes of {numbers['concepts']} held-out concepts; pixels in [-1, 1], peak 2, clipped. "
        f"Bar: {numbers['bar']:g} dB, {'met' if best >= numbers['bar'] else 'missed'} by the best.",
    ]
    for name, row in numbers["codecs"].items():
        if "codes" in row:
            used = f"{row['used']:,} of {row['codes']:,} codes used, perplexity {row['perplexity']:.0f}"
            text.append(f"{name}: {used}, {row['bits']:,.0f} bits a picture.")
        hardest = ", ".join(f"{c} {value:.1f}" for c, value in row["hardest"].items())
        text.append(f"{name}: hardest are {hardest} dB.")
    return "\n\n".join(text)
