"""Makes a drawing's file small: a palette in place of 24 bits a pixel, without dithering, which would cost more than it shows.

python -m scripts.thin docs/images/grids.png
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

# So many colours stand in the palette as they are, the most frequent ones: grounds and lines. Those that smooth edges share the rest.
EXACT, SHARED = 128, 128


def thin(path: Path) -> None:
    """Write the picture at `path` again with a palette, every pixel the nearest of its colours."""
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    colours, place, count = np.unique(np.asarray(picture).reshape(-1, 3), axis=0, return_inverse=True, return_counts=True)
    shared = picture.quantize(SHARED, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    palette = np.concatenate([colours[np.argsort(-count)[:EXACT]], np.array(shared, np.uint8).reshape(-1, 3)])
    nearest = np.square(colours[:, None].astype(int) - palette[None].astype(int)).sum(-1).argmin(1)
    small = Image.fromarray(nearest.astype(np.uint8)[place].reshape(picture.height, picture.width), "P")
    small.putpalette(palette.ravel().tolist())
    small.save(path, optimize=True)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        thin(Path(name))
