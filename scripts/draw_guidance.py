"""Draws docs/images/guidance.png: what each guidance does to a known distribution, with exact denoisers and no network.

    python -m scripts.draw_guidance

Eight Gaussians on a ring; the prompt asks for every second one. What guidance draws is drawn over what the prompt's own are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
from torch import Tensor

from safelight.denoise import Denoise, Estimate
from safelight.process import Level
from safelight.sample import trajectory
from safelight.spec import build
from tests.oracle import Mixture, final

IMAGE = Path(__file__).resolve().parents[1] / "docs/images/guidance.png"
RING = Mixture.ring(8)


def part(*which: int) -> Mixture:
    """Some of the ring's components."""
    k = list(which)
    return Mixture(RING.w[k] / RING.w[k].sum(), RING.m[k], RING.u[k], RING.l[k])


BRANCHES: dict[str, Mixture] = {
    "cond": part(0, 2, 4, 6),
    "null": RING,
    "weak": Mixture(part(0, 2, 4, 6).w, 0.9 * part(0, 2, 4, 6).m, part(0, 2, 4, 6).u, part(0, 2, 4, 6).l + 0.06),
}
PANELS: Sequence[tuple[str, dict[str, Any]]] = (
    ("the prompt alone", {"kind": "none"}),
    ("cfg, scale 2", {"kind": "cfg", "scale": 2}),
    ("cfg, scale 5", {"kind": "cfg", "scale": 5}),
    ("cfg, scale 5 for t in [0.2, 0.6]", {"kind": "cfg", "scale": 5, "interval": [0.2, 0.6]}),
    ("cfg, scale rising from 1 to 5", {"kind": "cfg", "scale": {"kind": "linear", "noisy": 1, "clean": 5}}),
    ("autoguidance, scale 2", {"kind": "autoguidance", "weak": "drawn here", "scale": 2}),
)


def ask(x: Tensor, level: Level, names: tuple[str, ...]) -> Mapping[str, Estimate]:
    """The exact branches."""
    return {name: BRANCHES[name].denoise(x, level) for name in names}


def drawn(denoise: Denoise, count: int = 1500) -> Tensor:
    """(count, 2) samples by 40 steps of Heun's method on the cosine process."""
    process = build("cosine", "process")
    levels = process.at(build("uniform", "grid")(process, 40))
    x = torch.randn(count, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return final(trajectory(denoise, x, levels, build("heun", "sampler"))).x


def main() -> None:
    """Write the figure."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    own = BRANCHES["cond"].sample(1500, seed=1)
    figure, axes = plt.subplots(2, 3, figsize=(9, 6.2), layout="constrained")
    for axis, (title, mix) in zip(axes.flat, PANELS, strict=True):
        points = drawn(build(mix, "mix")(ask))
        axis.scatter(*RING.m.T, s=160, facecolors="none", edgecolors="#bbbbbb", linewidths=0.8)
        axis.scatter(*own.T, s=2, color="#c9c9c9", linewidths=0)
        axis.scatter(*points.T, s=2, color="#D55E00", linewidths=0)
        axis.set(title=title, xlim=(-1.8, 1.8), ylim=(-1.8, 1.8), aspect="equal", xticks=[], yticks=[])
        axis.title.set_fontsize(10)
    figure.savefig(IMAGE, dpi=110)


if __name__ == "__main__":
    main()
