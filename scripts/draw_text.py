"""Draws docs/images/text.png: pictures and captions of scenes that no model was trained on, and the cosine of each pair.

python -m scripts.draw_text
"""

from __future__ import annotations

from pathlib import Path

import torch

from safelight.assets import Assets
from safelight.data.composed import REDUCED
from safelight.data.scenes.compose import Composer
from safelight.draw.chart import INK, figure
from safelight.evaluate.retrieval import distinct
from scripts.thin import thin

IMAGE = Path(__file__).resolve().parents[1] / "docs/images/text.png"
COUNT, SEED = 8, 3


def main() -> None:
    """Write the figure, and say how many pictures find their words."""
    composer = Composer(REDUCED.pack())
    scenes, captions = distinct(composer, COUNT, SEED)
    pictures = composer.render(scenes)
    joint = Assets().joint("sprites-clip")
    cosine = joint.pictures(pictures) @ joint.texts(captions).T
    with figure(IMAGE, 10.2, 5.9) as (fig, _):
        table = fig.subplots()
        table.imshow(cosine.T, cmap="Blues", vmin=-0.2, vmax=1.1)
        for column in range(COUNT):
            place = (column - 0.46, column + 0.46, -0.62, -1.54)
            table.imshow(pictures[column].permute(1, 2, 0), extent=place)
            for row in range(COUNT):
                value = float(cosine[column, row])
                table.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.5 else INK)
        table.set(xlim=(-0.5, COUNT - 0.5), ylim=(COUNT - 0.5, -1.6), xticks=[], anchor="E")
        table.set_yticks(range(COUNT), captions)
        table.tick_params(axis="y", labelcolor=INK)
        table.grid(False)
        for side in table.spines.values():
            side.set_visible(False)
    thin(IMAGE)
    print(f"{int((cosine.argmax(1) == torch.arange(COUNT)).sum())} of {COUNT} pictures find their words")


if __name__ == "__main__":
    main()
