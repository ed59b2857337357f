"""Draws docs/images/bound.png: the bound and the ODE on a mixture whose likelihood is known, with exact denoisers and no network.

    python -m scripts.draw_bound
    python -m scripts.draw_bound runs/improved-ddpm        # docs/images/improved-ddpm.png: what `evaluate likelihood` wrote there

For the second: those of bound-learned/, bound-small/ and bound-large/ in that folder that have their result.json.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import matplotlib
import torch

from safelight.bound import NAT, Chain, Variance
from safelight.draw.chart import COLOURS, DASHES, FAINT, figure
from safelight.draw.terms import terms
from safelight.evaluate.likelihood import bound, density
from safelight.grid import Exponential
from safelight.noise import Noise
from safelight.process.continuous import Cosine
from scripts.thin import thin
from tests.oracle import Mixture

IMAGES = Path(__file__).resolve().parents[1] / "docs/images"
COUNT = 4_000
KINDS: tuple[Variance, ...] = ("small", "large")


def draw(path: Path) -> None:
    """Left: the bits of a fine chain over log-SNR, the area under which is the bound. Right: how the bound nears the truth with n."""
    mixture, process = Mixture.ring(8), Cosine()
    x = mixture.sample(COUNT, seed=1)
    var = mixture.l
    off = torch.einsum("nkd,kde->nke", x[:, None] - mixture.m, mixture.u)
    log_p = (mixture.w.log() - 0.5 * (off.square() / var + var.log() + math.log(2 * math.pi)).sum(-1)).logsumexp(1)
    truth = float(-log_p.mean()) / 2 * NAT
    x0 = x[:, :, None, None]

    def chain(n: int) -> Chain:
        return Chain(process.at(Exponential()(process, n)))

    with figure(path, 10.4, 4.0) as (fig, _):
        left, right = fig.subplots(1, 2)
        fine = chain(200)
        found = bound(mixture.denoise, x0, fine, Noise(2), buckets=0)
        logsnr = fine.levels.logsnr
        left.stairs(
            (found.steps.mean(0) * NAT / logsnr[:-1].diff()).numpy(), logsnr[:-1].numpy(), color=COLOURS[0], linewidth=1.8
        )
        left.set_title("bits a value, for a unit of log-SNR")
        left.set_xlabel("log-SNR    (noise to data)")
        left.set_ylim(bottom=0)
        counts = [5, 10, 20, 40, 80, 160]
        for kind, colour, dash in zip(KINDS, COLOURS, DASHES, strict=False):
            gaps = [
                float(bound(mixture.denoise, x0, chain(n), Noise(n), kind, buckets=0).total.mean()) * NAT - truth
                for n in counts
            ]
            right.plot(counts, gaps, color=colour, linestyle=dash, marker="o", markersize=4, label=f"bound, variance {kind}")
        ode = density(mixture.denoise, x0[:200], process, Noise(3), trace="exact", rtol=1e-7, atol=1e-7)
        error = float((ode.log[:, 0] - log_p[:200]).abs().max()) / 2 * NAT
        right.axhline(error, color=FAINT, linestyle=DASHES[2], linewidth=1.4, label="ODE, the worst of 200 points")
        right.set_xscale("log")
        right.set_yscale("log")
        right.set_xticks(counts, [str(n) for n in counts])
        right.minorticks_off()
        right.set_title(f"above the truth, {truth:.3f} bits a value")
        right.set_xlabel("steps n of the chain")
        right.legend(loc="best")
    thin(path)


def compare(run: Path, path: Path) -> None:
    """One network's bound under several variances."""
    files = {kind: run / f"bound-{kind}" / "result.json" for kind in ("learned", "small", "large")}
    results = {kind: json.loads(file.read_text()) for kind, file in files.items() if file.is_file()}
    terms(path, results, title="improved-ddpm: one network, several variances")
    thin(path)


if __name__ == "__main__":
    matplotlib.use("Agg")
    if len(sys.argv) > 1:
        compare(Path(sys.argv[1]), IMAGES / "improved-ddpm.png")
    else:
        draw(IMAGES / "bound.png")
