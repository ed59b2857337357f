"""Builds assets/fashion-mnist-noisy-classifier.safetensors and its card from a training run.

    safelight train fashion-mnist-noisy-classifier --device cpu
    python scripts/build_noisy_classifier.py runs/fashion-mnist-noisy-classifier

The asset is the run's average in fp16; what is measured is the asset, on the 10,000 test pictures.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from safelight import model as files
from safelight.data import load
from safelight.data.fashion import FashionMNISTSource
from safelight.nn import classifier
from safelight.process.continuous import Cosine
from safelight.train.classify import recognised

ASSET = Path(__file__).resolve().parents[1] / "src/safelight/assets/fashion-mnist-noisy-classifier.safetensors"
TIMES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)

CARD = """# Model card: `fashion-mnist-noisy-classifier`

A classifier of noisy pictures, for guidance: it steers `fashion-mnist` to a class that the model itself is not told. It answers with
ten classes of 28 x 28 grey pictures at any noise level. It is no judge: `safelight evaluate` looks with another network.

    safelight sample fashion-mnist -p "" --set mix=none --set 'bends=[{{kind: classifier, target: sandal, scale: 4}}]'

| | |
|---|---|
| network | half a U-Net on patches of 2 pixels, widths {widths}; {parameters:,} parameters, {size:.2f} MB in float16 |
| told | the angle of the noise level, atan(sigma/alpha): any process |
| data | the 60,000 training pictures of Fashion-MNIST (Zalando Research, MIT), no augmentation |
| trained | recipe `fashion-mnist-noisy-classifier`: {seen:,} pictures seen, t uniform on `cosine`; under five minutes of one CPU core |
| licence | Apache-2.0 |

Recognised of the 10,000 test pictures, noised to time t of the process `cosine` (a guess is right for 10 %):

| t | sigma / alpha | recognised |
|---:|---:|---:|
{rows}

What it cannot do: other classes, colour, judge finished pictures better than the clean classifier that ships (92.9 %).
"""


def main() -> None:
    """Write the asset and, beside it, its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="the run's folder")
    found = classifier.load(files.locate(parser.parse_args().run))
    keep = ("recipe", "plan", "objective", "data", "images", "code")
    classifier.save(ASSET, found, {k: v for k, v in found.lineage.items() if k in keep})
    shipped, process = classifier.load(ASSET), Cosine()
    test = load(FashionMNISTSource(split="test"), channels=1, size=(28, 28))
    names = shipped.spec.names
    x0 = test.batch(torch.arange(test.n)).float() / 127.5 - 1
    labels = torch.tensor([names.index(caption) for caption in test.captions])
    right = {t: recognised(shipped, x0, labels, process, t) for t in TIMES}
    classifier.save(ASSET, found, shipped.lineage | {"recognised": {f"{t:g}": round(v, 4) for t, v in right.items()}})
    ratio = {t: float(process.at(t).ratio) for t in TIMES}
    rows = "\n".join(f"| {t:g} | {'infinite' if ratio[t] > 1e6 else f'{ratio[t]:.2f}'} | {v:.1%} |" for t, v in right.items())
    card = CARD.format(
        widths=" and ".join(map(str, shipped.spec.widths)),
        parameters=sum(p.numel() for p in shipped.parameters()),
        size=ASSET.stat().st_size / 1e6,
        seen=shipped.lineage["images"],
        rows=rows.replace("%", " %"),
    )
    ASSET.with_suffix(".md").write_text(card)
    print(json.dumps({"asset": str(ASSET.name), "bytes": ASSET.stat().st_size, "recognised": right}))


if __name__ == "__main__":
    main()
