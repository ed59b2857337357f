"""Builds assets/clip-vocabulary.xz: CLIP's byte-pair merges, and which of them are kept for pictures of sprites.

    pip download --no-deps open_clip_torch
    python scripts/build_vocabulary.py open_clip_torch-*.whl

The wheel (MIT licence) holds the published list of merges; the packed sprites (`scripts/build_sprites.py` first) hold concepts
and keywords. `clip` is the whole list, `clip-vocabulary` a part of it: every merge that encoding these, the scenes' captions and the
words below performs, and the FIRST of all merges (the commonest pieces of English), so that ordinary words stay short. Everything else
is still encoded, by bytes at worst. The output is a function of the inputs: no dates. Its layout is told in
`safelight.text.tokens.shipped`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from safelight.data.scenes.captions import Phrases
from safelight.data.scenes.nouns import nouns
from safelight.files import atomic_bytes
from safelight.text.tokens import load, prune

FIRST = 2_000
MERGES = "open_clip/bpe_simple_vocab_16e6.txt.gz"
ASSET = Path(__file__).resolve().parents[1] / "src/safelight/assets/clip-vocabulary.xz"

# What captions and prompts say around a noun. One word in several forms is several words.
WORDS = """
a an the of and with on in at to from by is are no not without one two three four five six seven eight nine ten some many
red orange yellow green blue purple violet pink brown black white gray grey cyan magenta teal navy beige turquoise gold golden
silver crimson maroon olive lime indigo lavender dark light bright pale pastel vivid colorful colourful colored coloured plain
background backdrop foreground gradient checkered striped dotted stripes dots night sky grass sand snow sea paper wood
left right above below over under top bottom upper lower center centre middle corner beside next near between behind front side
small little tiny big large huge medium single pair several group row couple upside down
style styled flat glossy cartoon emoji icon sticker clip art illustration drawing painting sketch render picture image photo
photograph scene shiny simple detailed minimal cute blob noto twemoji fluent
sitting standing flying swimming running looking holding wearing smiling sleeping eating growing shining falling
camera angle shot close closeup wide macro portrait landscape lens focus blurred depth field aerial view low high eye level
light lighting soft hard warm cold cool sunset sunrise dawn dusk noon evening shadow shadows glow glowing neon studio rim
backlit watercolor watercolour oil ink pencil charcoal pixel digital vector realistic abstract vintage retro modern futuristic
beautiful pretty ugly scary happy sad angry funny magical mysterious dramatic calm quiet
forest mountain river lake ocean beach desert city street house room garden field road bridge space moon sun star cloud rain
king queen man woman boy girl child people person dog cat horse bird fish tree flower
"""


def corpus(sprites: Path) -> list[str]:
    """Every phrase of a caption, and the concepts and keywords of the packed sprites, once each, in order."""
    with zipfile.ZipFile(sprites) as pack:
        concepts = json.loads(pack.read("index.json"))["concepts"]
    keywords = [k.replace("_", " ") for concept in concepts.values() for k in concept["keywords"]]
    return sorted({*WORDS.split(), *concepts, *keywords, *Phrases(tuple(nouns().values())).texts})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path, help="open_clip_torch's wheel")
    parser.add_argument("--sprites", type=Path, default=ASSET.parent / "sprites.zip")
    parser.add_argument("--out", type=Path, default=ASSET)
    args = parser.parse_args()
    with zipfile.ZipFile(args.wheel) as wheel, tempfile.TemporaryDirectory() as folder:
        raw = wheel.read(MERGES)
        merges = Path(folder, "merges.txt.gz")
        merges.write_bytes(raw)
        full = load(str(merges))
    small = prune(full, corpus(args.sprites), FIRST)
    record = {
        "format": 2,
        "source": f"{args.wheel.name}: {MERGES}",
        "sha256": hashlib.sha256(raw).hexdigest(),
        "licence": "MIT",
        "copyright": [
            "Copyright (c) 2021 OpenAI (the byte-pair merges of CLIP)",
            "Copyright (c) 2012-2021 Gabriel Ilharco, Mitchell Wortsman, Nicholas Carlini, Rohan Taori, Achal Dave, "
            "Vaishaal Shankar, John Miller, Hongseok Namkoong, Hannaneh Hajishirzi, Ali Farhadi, Ludwig Schmidt "
            "(the package that carries them)",
        ],
        "merges": len(full.merges),
    }
    kept = set(small.merges)
    pairs = np.array([[full.ids[a], full.ids[b]] for a, b in full.merges], "<u2")
    mask = np.packbits([pair in kept for pair in full.merges])
    head = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8") + b"\n"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "lp": 1, "pb": 1}]
    data = lzma.compress(head + pairs.T.tobytes() + mask.tobytes(), lzma.FORMAT_XZ, filters=filters)
    atomic_bytes(args.out, data)
    print(f"{args.out}: {full.size} and {small.size} ids, {len(data)} bytes")


if __name__ == "__main__":
    main()
