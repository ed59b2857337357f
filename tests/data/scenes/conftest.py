"""One pack and one composer for all tests of the scenes: reading and drawing is cheap, pixels are made for a few concepts."""

from __future__ import annotations

import pytest

from safelight.data.scenes.compose import Composer
from safelight.data.scenes.sprites import Pack, load

FEW = (
    "automobile", "banana", "cat", "dog", "envelope", "green apple", "house", "octopus", "rainbow", "red apple", "rocket",
    "scissors", "snowman", "star", "tangerine", "tennis", "teapot", "tomato", "umbrella", "woman’s hat", "sparkles", "dove",
)  # fmt: skip


@pytest.fixture(scope="session")
def pack() -> Pack:
    """All sprites."""
    return load()


@pytest.fixture(scope="session")
def composer(pack: Pack) -> Composer:
    """Draws of everything; no test paints with it but those that are marked slow."""
    return Composer(pack)


@pytest.fixture(scope="session")
def small() -> Composer:
    """22 concepts, to be painted."""
    return Composer(load(concepts=FEW))
