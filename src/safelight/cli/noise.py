"""Show a picture drowning in noise: one row a process, one column a time, with alpha, sigma and log-SNR.

The noise is one fixed draw, so that it is seen to grow. Examples:

  safelight noise boot.png --process cosine --process linear --out strip.png
  safelight noise boot.png --process '{"kind": "linear", "T": 200}' --times 0,0.25,0.5,1
"""

from __future__ import annotations

import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """The picture, the processes, the times."""
    parser.add_argument("picture", help="a picture file")
    parser.add_argument(
        "--process",
        action="append",
        metavar="KIND",
        help="a kind, or JSON with its fields; repeat for more rows (default: linear, cosine, flow)",
    )
    parser.add_argument(
        "--times", default="0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1", help="comma-separated, 0 = data, 1 = noise"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--size", type=int, metavar="PIXELS", help="shrink the picture to fit a square of so many pixels first")
    parser.add_argument("--dark", action="store_true", help="on dark paper")
    parser.add_argument("--out", default="out/noise.png", help="the file to write: .png, .webp, .jpg (default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    """Write the strip and print where it is."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    from safelight.cli.plot import numbers, processes
    from safelight.draw.grid import save
    from safelight.draw.page import DARKROOM, WHITE
    from safelight.draw.strip import noise_strip
    from safelight.spec import SpecError

    chosen = processes(args.process or ["linear", "cosine", "flow"])
    times = numbers(args.times, "--times")
    try:
        with Image.open(args.picture) as file:
            picture = ImageOps.exif_transpose(file)
            picture.load()
    except (UnidentifiedImageError, SyntaxError):
        raise SpecError(f"{args.picture} is not a picture that can be read") from None
    except OSError as error:
        if error.filename is not None:
            raise
        raise SpecError(f"{args.picture} cannot be decoded: {error}") from None
    if args.size is not None:
        if args.size < 1:
            raise SpecError("--size: at least 1 pixel is needed")
        picture.thumbnail((args.size, args.size), Image.Resampling.LANCZOS)
    strip = noise_strip(picture, chosen, times, seed=args.seed, paper=DARKROOM if args.dark else WHITE)
    print(save(args.out, strip))
    return 0
