"""Pictures of an adherence report: the curve over guidance scales, samples with their verdicts, the nearest training sprites."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from safelight.data.scenes.compose import Composer
from safelight.draw.chart import COLOURS, DASHES, FAINT, figure, heading
from safelight.draw.grid import sheet
from safelight.draw.pixels import to_bytes
from safelight.evaluate.adherence import MARKS, Part
from safelight.evaluate.designs import Designs, single

RIGHT: Final = (0, 158, 115)  # bluish green and vermilion of Okabe and Ito
WRONG: Final = (213, 94, 0)
UNASKED: Final = (222, 222, 222)
_SCALE, _MARK, _EDGE = 3, 10, 4


def curve(path: str | os.PathLike[str], numbers: Mapping[str, Any]) -> Path:
    """Each aspect that has a bar, over the guidance scale, with its 95 % interval and, dashed at the right, its bar."""
    rows = numbers["curve"]
    scales = [row["scale"] for row in rows]
    with figure(path, 8.6, 4.8) as (fig, target):
        axis = fig.subplots()
        names = [name for name in numbers["bars"] if name in rows[0]["rates"]]
        last, reach = max(scales), max(scales) - min(scales)
        for name, colour, dash in zip(names, COLOURS, DASHES, strict=False):
            found = [row["rates"][name] for row in rows]
            rate = np.array([100 * f["rate"] for f in found])
            low, high = ([100 * f[end] for f in found] for end in ("low", "high"))
            axis.fill_between(scales, low, high, color=colour, alpha=0.10, linewidth=0)
            label = f"{name} ({found[0]['n']}; bar {100 * numbers['bars'][name]:.0f} %)"
            axis.plot(scales, rate, color=colour, linestyle=dash, marker="o", markersize=4, label=label)
            axis.plot(last + reach * 0.03, 100 * numbers["bars"][name], marker="<", color=colour, markersize=7, clip_on=False)
        axis.axvline(numbers["scale"], color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
        axis.set_xticks(scales)
        axis.set_xlim(min(scales) - reach * 0.02, last + reach * 0.05)
        axis.set_ylim(0, 101)
        axis.set_xlabel("guidance scale")
        axis.set_ylabel("right, %")
        fig.legend(loc="outside right center")
        n = numbers["plan"]["curve"]
        heading(fig, f"Adherence on {n:,} held-out prompts at each scale; best mean at {numbers['scale']:g}")
    return target


def samples(part: Part, count: int = 60, columns: int = 6) -> Image.Image:
    """The first pictures of a part, none picked, with their prompts: framed green when all is right, and under each a mark for every
    aspect."""
    cells = []
    marks = part.marks()[:count]
    for picture, row in zip(to_bytes(part.pictures[:count]), marks, strict=True):
        large = np.repeat(np.repeat(picture, _SCALE, 0), _SCALE, 1)
        h, w = large.shape[:2]
        frame = RIGHT if all(mark is not False for mark in row) else WRONG
        cell = np.full((h + 2 * _EDGE + _MARK + 2, w + 2 * _EDGE, 3), 255, np.uint8)
        cell[: h + 2 * _EDGE] = frame
        cell[_EDGE : _EDGE + h, _EDGE : _EDGE + w] = large
        wide = cell.shape[1] / len(row)
        for k, mark in enumerate(row):
            colour = UNASKED if mark is None else RIGHT if mark else WRONG
            cell[-_MARK:, round(k * wide) + (k > 0) : round((k + 1) * wide) - 1] = colour
        cells.append(cell.transpose(2, 0, 1))
    note = f"Marks under a picture, left to right: {', '.join(MARKS)}; green right, red wrong, gray not asked. The first ones, none picked."
    return sheet(np.stack(cells), captions=part.asked.captions[:count], columns=columns, scale=1, gap=12, note=note)


def copies(part: Part, found: Designs, composer: Composer, count: int = 32) -> Image.Image:
    """The pictures of one thing that are nearest to a training sprite, each beside that sprite."""
    near = found.copies.nearest
    order = near.distance.argsort()[:count]
    rows = found.rows[order]
    sprite = near.index[order].to(composer.device)
    ground = part.asked.scenes.background[rows.to(composer.device)]
    theirs = composer.render(single(composer, sprite, ground, torch.full_like(sprite, 4))).cpu()
    pairs = torch.stack([part.pictures[rows], theirs], 1).flatten(0, 1)
    captions = []
    for i, k in zip(order.tolist(), sprite.tolist(), strict=True):
        of = composer.pack.sprites[k]
        captions += ["generated", f"{of.concept}, {of.style}: {near.distance[i]:.1f} away"]
    note = (
        f"The {len(order)} of {len(near.distance)} pictures nearest to a training sprite, each beside it. One in a hundred real "
        f"drawings is nearer than {found.copies.threshold:.1f} to another design."
    )
    return sheet(pairs, columns=8, captions=captions, note=note)
