"""Build src/safelight/assets/sprites.zip from scratch: fetch the npm packages, render, measure, pack.

    npm pack is run for every package below (or give --packages FOLDER with them unpacked as FOLDER/<name with / as +>/package)
    pip install resvg-py            # renders SVG without system packages; needed here only

    python scripts/build_sprites.py [--packages FOLDER] [--out src/safelight/assets/sprites.zip]

What is kept: the 709 concepts of `safelight.data.scenes.nouns` in five styles, wherever a set draws them: 3,350 sprites.
Each sprite is then *measured* with the same code that later checks generated pictures: on which grounds it can be seen
(`clear`) and seen as one piece (`solid`), and whether one hue dominates it (`hue`), so that it can be recoloured.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from safelight.data.scenes.nouns import nouns
from safelight.data.scenes.rules import components, different
from safelight.data.scenes.sprites import FORMAT, SIDE, kernel
from safelight.data.scenes.words import BACKGROUNDS
from safelight.files import atomic

NAMES = ("emojibase-data@17.0.0", "emojilib@4.0.3")
FINE = 4
# Sprites a picture may hold, and the bytes that each picture costs beside its own.
RUNS, PER_RUN = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32), 5
MISTAKEN = {("cricket", "blob")}  # found by its name; this set draws the bat
LICENCES = "spdx-license-list@6.12.0"


class Source(NamedTuple):
    """Where a style comes from. `names`: the package whose chars.json maps code points to icon names, if not its own."""

    package: str
    version: str
    licence: str
    copyright: str
    names: str | None = None


SOURCES = {
    "noto": Source("@iconify-json/noto", "1.2.9", "Apache-2.0", "Google"),
    "twemoji": Source("@iconify-json/twemoji", "1.2.5", "CC-BY-4.0", "Twitter, Inc and other contributors"),
    "flat": Source("@iconify-json/fluent-emoji-flat", "1.2.6", "MIT", "Microsoft"),
    "glossy": Source("@iconify-json/fluent-emoji", "1.2.7", "MIT", "Microsoft", "@iconify-json/fluent-emoji-flat"),
    "blob": Source("@iconify-json/noto-v1", "1.2.5", "Apache-2.0", "Google", "@iconify-json/noto"),
}
NOTICE = (
    "Each sprite's source package, licence and copyright holder stand in index.json.\n"
    "Changes: rendered from SVG to 64x64 pixels; in scenes they may be scaled, recoloured and composed.\n"
    "Twemoji: copyright Twitter, Inc and other contributors, CC-BY-4.0.\n"
    "Noto Emoji: copyright Google, Apache-2.0. Fluent Emoji: copyright Microsoft, MIT.\n"
    "Names: emojibase-data, copyright Miles Johnson, MIT. Keywords: emojilib, copyright Mu-An Chiou, MIT.\n"
)


def unpacked(folder: Path, package: str) -> Path:
    """The folder of one package (`name@version`), fetched with npm when it is not there."""
    name = package.rsplit("@", 1)[0]
    target = folder / name.replace("/", "+")
    if not (target / "package").is_dir():
        out = subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True)
        with tarfile.open(folder / out.stdout.split()[-1]) as file:
            file.extractall(target, filter="data")
    return target / "package"


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


class Icons:
    """The drawings of one iconify package, by code point."""

    def __init__(self, folder: Path, names: Path) -> None:
        self.set = read(folder / "icons.json")
        self.chars: dict[str, str] = read(names / "chars.json")

    def svg(self, code: str) -> str | None:
        """The drawing of a code point sequence as an SVG of 256x256, None when the set has none."""
        name = self.chars.get(code) or self.chars.get(code.replace("-fe0f", ""))
        seen = 0
        while name in self.set.get("aliases", {}) and seen < 8:  # an alias that turns the picture is another picture
            alias = self.set["aliases"][name]
            if set(alias) - {"parent", "hidden"}:
                return None
            name, seen = alias["parent"], seen + 1
        icon = self.set["icons"].get(name)
        if icon is None:
            return None
        box = [icon.get(k, self.set.get(k, default)) for k, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))]
        return (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'width="{FINE * SIDE}" height="{FINE * SIDE}" viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'
        )


def render(svg: str) -> np.ndarray:
    """uint8 (64, 64, 4), straight alpha, 0 where nothing is painted: the mean of 4x4 finer pixels, since clip paths are not
    smoothed by the renderer."""
    from resvg_py import svg_to_bytes

    with Image.open(io.BytesIO(bytes(svg_to_bytes(svg_string=svg, skip_system_fonts=True)))) as image:
        fine = np.array(image.convert("RGBA")).astype(np.float64)
    if fine.shape != (FINE * SIDE, FINE * SIDE, 4):
        raise SystemExit(f"resvg drew {fine.shape} instead of {FINE * SIDE}x{FINE * SIDE}")
    fine[..., :3] *= fine[..., 3:] / 255
    mean = fine.reshape(SIDE, FINE, SIDE, FINE, 4).mean((1, 3))
    mean[..., :3] *= 255 / np.maximum(mean[..., 3:], 1e-9)
    pixels = np.clip(np.round(mean), 0, 255).astype(np.uint8)
    pixels[pixels[..., 3] == 0] = 0
    return pixels


def sprites(folder: Path) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Every (row of the index, pixels), style by style and then by concept."""
    emoji = {e["label"]: e for e in read(unpacked(folder, NAMES[0]) / "en" / "data.json")}
    keywords = read(unpacked(folder, NAMES[1]) / "dist" / "emoji-en-US.json")
    for style, source in SOURCES.items():
        own = unpacked(folder, f"{source.package}@{source.version}")
        other = next((s for s in SOURCES.values() if s.package == source.names), source)
        icons = Icons(own, unpacked(folder, f"{other.package}@{other.version}"))
        for concept in nouns():
            entry = emoji[concept]
            code = entry["hexcode"].lower()
            svg = icons.svg(code)
            if svg is None or (concept, style) in MISTAKEN:
                continue
            words = list(dict.fromkeys([*keywords.get(entry["emoji"], []), *entry.get("tags", [])]))
            yield (
                {
                    "file": f"{style}/{code}",
                    "concept": concept,
                    "style": style,
                    "licence": source.licence,
                    "package": f"{source.package}@{source.version}",
                    "copyright": source.copyright,
                    "keywords": words,
                },
                render(svg),
            )


def dominant(pixels: Tensor) -> tuple[int, int, int] | None:
    """The colour that dominates a sprite (64, 64, 4), or None: at least half of what is opaque, and nine tenths of what is
    coloured, lies within 40 degrees of one hue, and that hue is a clear one."""
    rgb, alpha = pixels[..., :3].float().reshape(-1, 3), pixels[..., 3].float().reshape(-1) / 255
    c = rgb - rgb.mean(-1, keepdim=True)
    length = c.norm(dim=-1)
    weight = alpha * length
    coloured = alpha * (length > 25)
    if coloured.sum() < 0.45 * alpha.sum():
        return None
    mean = (c * weight[:, None]).sum(0)
    for _ in range(3):  # towards the mode: only what points the same way votes in the next round
        cosine = (c @ mean) / (length * mean.norm()).clamp(min=1e-6)
        near = weight * (cosine > 0.766)
        mean = (c * near[:, None]).sum(0)
    cosine = (c @ mean) / (length * mean.norm()).clamp(min=1e-6)
    inside = cosine > 0.766
    if (coloured * inside).sum() < 0.9 * coloured.sum() or (coloured * inside).sum() < 0.5 * alpha.sum():
        return None
    near = weight * inside
    colour = (rgb * near[:, None]).sum(0) / near.sum()
    if (colour - colour.mean()).norm() < 45:
        return None
    r, g, b = (int(v) for v in colour.round())
    return r, g, b


def visibility(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """On which of the ten grounds each sprite (n, 64, 64, 4) is seen, and seen as one piece: bool (n, 10) twice.

    Seen: at 24 pixels at least 60 % of its opaque area differs from the ground. One piece: moreover exactly one component
    counts as a thing, at 24 and at 28 pixels.
    """
    grounds = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32)
    image = pixels.permute(0, 3, 1, 2).float()
    planes = torch.cat([image[:, :3] * image[:, 3:] / 255, image[:, 3:]], 1)
    clear = torch.ones(len(pixels), len(grounds), dtype=torch.bool)
    solid = clear.clone()
    for side in (24, 28):
        k = kernel(side)
        small = (k @ planes @ k.T).clamp(0, 255).round()
        for g, ground in enumerate(grounds):
            canvas = ground[:, None, None].expand(len(pixels), 3, 32, 32).clone()
            canvas[:, :, 2 : 2 + side, 2 : 2 + side] *= 1 - small[:, 3:] / 255
            canvas[:, :, 2 : 2 + side, 2 : 2 + side] += small[:, :3]
            seen = different(canvas, ground.expand(len(pixels), 3))
            clear[:, g] &= seen.sum((1, 2)) >= 0.6 * (small[:, 3] > 127).sum((1, 2))
            solid[:, g] &= clear[:, g] & (components(seen).number == 1)
    return clear, solid


def mask(bits: Tensor) -> int:
    return sum(1 << i for i, bit in enumerate(bits.tolist()) if bit)


def build(folder: Path, out: Path) -> None:
    rows, images = [], []
    for row, pixels in sprites(folder):
        rows.append(row)
        images.append(pixels)
    everything = torch.from_numpy(np.stack(images))
    for first in range(0, len(rows), 256):
        part = everything[first : first + 256]
        clear, solid = visibility(part)
        for i, row in enumerate(rows[first : first + 256]):
            row.update(clear=mask(clear[i]), solid=mask(solid[i]), hue=dominant(part[i]))
    texts = unpacked(folder, LICENCES) / "licenses"
    pack(rows, images, texts, out)
    hues = sum(row["hue"] is not None for row in rows)
    solid_ = sum(row["solid"] != 0 for row in rows)
    print(
        f"{out}: {len(rows)} sprites of {len({row['concept'] for row in rows})} concepts, {hues} with one hue, {solid_} solid"
    )
    print(f"{out.stat().st_size:,} bytes")


def pack(rows: list[dict[str, Any]], images: list[np.ndarray], texts: Path, out: Path) -> None:
    """The file itself: rows of the index and their pictures uint8 (64, 64, 4), and the folder of licence texts."""
    with atomic(out) as temporary, zipfile.ZipFile(temporary, "w") as file:

        def put(name: str, data: bytes, how: int = zipfile.ZIP_DEFLATED) -> None:
            file.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, how)  # no clock: the same bytes each time

        about = {"format": FORMAT, "side": SIDE, "sprites": len(rows), "concepts": len({row["concept"] for row in rows})}
        put("about.json", json.dumps(about).encode())
        put("NOTICE.txt", NOTICE.encode())
        for licence in sorted({source.licence for source in SOURCES.values()}):
            text = read(texts / f"{licence}.json")["licenseText"].replace("<year> <copyright holders>", "Microsoft Corporation")
            put(f"licences/{licence}.txt", text.encode())
        index, pictures = stacked(rows, images)
        put("index.json", json.dumps(index, ensure_ascii=False, separators=(",", ":")).encode(), zipfile.ZIP_LZMA)
        for style, strips in pictures.items():
            put(f"{style}.webps", b"".join(strips), zipfile.ZIP_STORED)


def stacked(rows: list[dict[str, Any]], images: list[np.ndarray]) -> tuple[dict[str, Any], dict[str, list[bytes]]]:
    """The index, as `rows_of` reads it, and the pictures of each style."""
    concepts = {row["concept"]: {"code": row["file"].split("/")[1], "keywords": row["keywords"]} for row in rows}
    index: dict[str, Any] = {"sources": {}, "concepts": concepts, "styles": {}}
    pictures: dict[str, list[bytes]] = {}
    for style in SOURCES:
        mine = [i for i, row in enumerate(rows) if row["style"] == style]
        runs = runs_of(np.stack([images[i] for i in mine]))
        pictures[style] = [min((_webp(images, [mine[k] for k in run], method) for method in (4, 6)), key=len) for run in runs]
        order = [mine[k] for run in runs for k in run]
        index["sources"][style] = {name: rows[mine[0]][name] for name in ("licence", "package", "copyright")}
        index["styles"][style] = {name: [rows[i][name] for i in order] for name in ("concept", "clear", "solid", "hue")}
        index["styles"][style]["strips"] = [[len(run), len(data)] for run, data in zip(runs, pictures[style], strict=True)]
    return index, pictures


def runs_of(images: np.ndarray) -> list[list[int]]:
    """Sprites (N, 64, 64, 4) in the runs whose pictures are smallest together: a run of few colours is written with a palette.

    Sprites are put in a row, each behind the one whose colours are most like its own, and the row is cut where the sum of the sizes,
    as a fast encoder tells them, is least; a cut may fall at every third of a run's length.
    """
    row = [0]
    share = np.stack([_colours(image) for image in images])
    alike = share @ share.T
    left = set(range(1, len(images)))
    while left:
        row.append(max(sorted(left), key=lambda i: alike[row[-1], i]))
        left.remove(row[-1])
    least, length = [0.0] + [float("inf")] * len(row), [0] * (len(row) + 1)
    size = {
        (first, n): len(_webp(images, row[first : first + n], 4, 75)) + PER_RUN
        for n in RUNS
        for first in range(0, len(row) - n + 1, max(1, n // 3))
    }
    for end in range(1, len(row) + 1):
        for n in RUNS:
            if (end - n, n) in size and least[end - n] + size[end - n, n] < least[end]:
                least[end], length[end] = least[end - n] + size[end - n, n], n
    runs: list[list[int]] = []
    end = len(row)
    while end:
        runs.append(row[end - length[end] : end])
        end -= length[end]
    return runs[::-1]


def _colours(image: np.ndarray) -> np.ndarray:
    """(216,) the root of the share that each of 6 x 6 x 6 colours has of the opaque pixels."""
    opaque = image.reshape(-1, 4)
    shades = opaque[opaque[:, 3] > 200][:, :3] // 43
    count = np.bincount(shades[:, 0] * 36 + shades[:, 1] * 6 + shades[:, 2], minlength=216).astype(float)
    return np.sqrt(count / max(1.0, count.sum()))


def _webp(images: list[np.ndarray] | np.ndarray, chosen: list[int], method: int, quality: int = 100) -> bytes:
    buffer = io.BytesIO()
    stack = np.concatenate([images[i] for i in chosen])
    Image.fromarray(stack).save(buffer, "WEBP", lossless=True, quality=quality, method=method)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packages", type=Path, help="a folder of unpacked npm packages; missing ones are fetched into it")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "src/safelight/assets/sprites.zip")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.packages or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        build(folder.resolve(), args.out)


if __name__ == "__main__":
    main()
