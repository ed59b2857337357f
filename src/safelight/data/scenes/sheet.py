"""A labelled contact sheet of scenes: what a model is trained on, to be looked at."""

from __future__ import annotations

from PIL import Image

from safelight.data.scenes.captions import Phrases
from safelight.data.scenes.compose import Composer, Scenes
from safelight.draw.grid import sheet


def contact_sheet(composer: Composer, scenes: Scenes, *, title: str = "") -> Image.Image:
    """The pictures of `scenes`, eight a row, each over its caption."""
    captions = Phrases(composer.pack.nouns, composer.device).captions(scenes)
    return sheet(composer.render(scenes), captions=captions, columns=min(8, len(captions)), title=title)
