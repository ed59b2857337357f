"""Builds assets/sprites-clip.safetensors and its card from a training run.

    safelight train sprites-clip --device cpu
    python scripts/build_sprites_clip.py runs/sprites-clip

The asset is the run's average in fp16, with the scenes it knows and the gap of its texts and pictures; what is measured is the asset.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from safelight.data.composed import ScenesSource
from safelight.data.scenes.compose import Composer
from safelight.data.scenes.words import TEMPLATES
from safelight.evaluate.retrieval import Set, distinct, retrieval, table
from safelight.shared import measure
from safelight.spec import describe
from safelight.text.joint import Joint, load, save
from safelight.train import recipe_of

ASSET = Path(__file__).resolve().parents[1] / "src/safelight/assets/sprites-clip.safetensors"
SETS = 3
SAID = {
    "single": "a style of a thing",
    "colour": "a colour of a thing",
    "count": "a number of a thing",
    "relation": "a pair of things",
}

CARD = """# Model card: `sprites-clip`

Texts and pictures of sprite scenes as vectors of one space: it finds a picture's words among others and words' picture, classifies
without being trained to, and carries the arithmetic of `safelight mix --joint sprites-clip`. It conditions no generator: the text tower
of the model that paints is another, so that nothing grades what it made itself.

| | |
|---|---|
| text | {text_layers} layers of {text_width}, every word sees the whole prompt, {length} tokens a window |
| pictures | 64 x 64, four strided convolutions to 16 patches, {layers} layers of {width} |
| space | {space} dimensions; {parameters:,} parameters, {size:.2f} MB in float16 |
| data | scenes without end of {concepts} concepts in {styles} styles, captions in plain grammar; held-out combinations are never composed |
| trained | recipe `sprites-clip`: {seen:,} pairs, batch {batch}, AdamW {lr:g} falling to 0; {minutes} |
| weights | the power average of relative width 0.05 (Karras et al. 2024) |
| licence | Apache-2.0; the sprites it learned from: Apache-2.0, CC-BY-4.0 (Twemoji, Twitter, Inc and other contributors), MIT |

## Measured

On prompts each of which holds something that training never shows ({sets} sets of 100, no two of a set ask for the same):

{table}

The means of texts and pictures lie {gap:.3f} apart (length of an embedding: 1), on {pairs:,} scenes. Scale of the cosines: {scale:.1f}.

Pictures that do not find their words, by what is held out in them: {wrong}.
So what it gets wrong is mostly a thing in a style that it never saw it in; colours, counts and relations it puts together anew.

What it cannot do: things beside its {concepts} concepts, other drawings of them, photographs, other languages. Other sizes are scaled.

    safelight evaluate retrieval --joint sprites-clip
"""


def wrong(joint: Joint, sets: Sequence[Set], composer: Composer) -> str:
    """How many pictures of each template do not find their own words."""
    missed, asked = Counter[str](), Counter[str]()
    for each in sets:
        best = (joint.pictures(composer.render(each.scenes)) @ joint.texts(each.captions).T).argmax(1)
        names = [TEMPLATES[i] for i in each.scenes.template.tolist()]
        asked.update(names)
        missed.update(name for k, name in enumerate(names) if best[k] != k)
    return ", ".join(f"{SAID[name]} {missed[name]} of {asked[name]}" for name in SAID)


def main() -> None:
    """Write the asset and, beside it, its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the run's folder")
    parser.add_argument(
        "--took", default="five minutes of one CPU core that multiplies in bfloat16", help="how long it trained, in words"
    )
    args = parser.parse_args()
    found, recipe = load(args.run), recipe_of(Path(args.run))
    source = recipe.data
    assert isinstance(source, ScenesSource)
    words = source.stream(torch.device("cpu")).words
    keep = ("recipe", "plan", "objective", "data", "images", "step", "held_out", "code")
    lineage = {k: v for k, v in found.lineage.items() if k in keep} | {"scenes": describe(source), "vocabulary": words}
    save(ASSET, found, lineage)
    found = load(ASSET)
    gap = measure(found)
    save(ASSET, found, lineage | {"gap": gap.json()})
    shipped, composer = load(ASSET), source.composer(torch.device("cpu"))
    sets = [distinct(composer, 100, seed) for seed in range(SETS)]
    numbers = retrieval(shipped, sets, composer)
    spec, plan = shipped.spec, recipe.plan
    card = CARD.format(
        text_layers=spec.text.layers,
        text_width=spec.text.width,
        length=spec.text.length,
        layers=spec.layers,
        width=spec.width,
        space=spec.space,
        parameters=sum(p.numel() for p in shipped.parameters()),
        size=ASSET.stat().st_size / 1e6,
        concepts=len(composer.pack.nouns),
        styles=len({s.style for s in composer.pack.sprites}),
        seen=shipped.lineage["images"],
        batch=plan.batch,
        lr=plan.optimizer.lr,
        minutes=args.took,
        sets=SETS,
        table=table(numbers),
        wrong=wrong(shipped, sets, composer),
        gap=gap.distance,
        pairs=gap.pairs,
        scale=float(shipped.pair.scale.detach().exp()),
    )
    ASSET.with_suffix(".md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
