"""Draws docs/images/upscaling.png: three apples at twice the size that the model that ships was trained at, and counts them in 24 of each.

python -m scripts.draw_upscaling
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from safelight.draw.grid import save, sheet
from safelight.generate import Finished, generate
from safelight.model import load
from safelight.spec import parse

IMAGE = Path(__file__).resolve().parents[1] / "docs/images/upscaling.png"
PROMPT, COUNT, SHOWN = "three red apples on a blue background", 24, 4
ROWS: dict[str, Any] = {
    "in one pass": "text",
    "in two": {"kind": "hires"},
    "in two, the second in tiles of 64": {"kind": "hires", "second": {"tile": 64}},
    "in two, the latents enlarged": {"kind": "hires", "second": {"latent": "bilinear"}},
}


def areas(picture: Tensor) -> int:
    """How many connected red areas a picture (3, H, W) in [-1, 1] has that are larger than a 200th of it."""
    red = (picture[0] > 0.2) & (picture[1] < 0) & (picture[2] < 0)
    label = torch.where(red, torch.arange(1.0, red.numel() + 1).view(red.shape), 0)
    while True:
        grown = F.max_pool2d(label[None], 3, 1, 1)[0] * red
        if torch.equal(grown, label):
            return int((label[red].long().bincount() > red.numel() / 200).sum())
        label = grown


def main() -> None:
    """Write the figure, and say how many pictures of each row show three."""
    model = load("default")
    shown = []
    for name, task in ROWS.items():
        request = parse(
            {"kind": "request", "task": task, "prompt": PROMPT, "count": COUNT, "micro_batch": 8, "size": (128, 128)}, "request"
        )
        made = torch.cat([e.pictures for e in generate(model, request) if isinstance(e, Finished)])  # type: ignore[arg-type]
        counts = [areas(one) for one in made]
        print(f"{name}: three in {sum(n == 3 for n in counts)} of {COUNT}, {sum(counts) / COUNT:.1f} on average")
        shown.append(made[:SHOWN])
    save(IMAGE, sheet(torch.cat(shown), rows=list(ROWS), columns=SHOWN, title=f'"{PROMPT}" at 128x128'))


if __name__ == "__main__":
    main()
