"""The reduced vocabulary: 48 everyday things that look unlike each other, for a machine without an accelerator."""

from __future__ import annotations

from typing import Final

SMALL: Final = (
    "red apple", "banana", "strawberry", "watermelon", "tangerine", "lemon", "carrot", "mushroom", "pizza", "doughnut",
    "teapot", "birthday cake", "cat", "dog", "bear", "rabbit face", "elephant", "tropical fish", "octopus", "turtle",
    "butterfly", "lady beetle", "penguin", "owl", "frog", "unicorn", "automobile", "bus", "rocket", "airplane", "sailboat",
    "bicycle", "deciduous tree", "cactus", "sunflower", "tulip", "snowman", "sun", "star", "house", "guitar", "soccer ball",
    "balloon", "umbrella", "crown", "t-shirt", "key", "wrapped gift",
)  # fmt: skip
