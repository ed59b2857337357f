"""Draws the figures of docs/discrete.md: chains at work on a picture; how exact bound and samples are where p(x_0 | x_t) is known.

python -m scripts.draw_discrete [FOLDER-OF-RUNS]

With a folder also the steps of the run `masked-fashion` in it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from safelight.cli.tokens import coloured
from safelight.data import load
from safelight.discrete import Ancestral, TokenProcess, TokensSpec, sample
from safelight.discrete import load as read
from safelight.discrete.alphabet import Grey
from safelight.discrete.process import AbsorbingTokens, GaussianTokens, MaskedTokens, UniformTokens
from safelight.draw.chart import COLOURS, DASHES, INK, figure
from safelight.draw.grid import sheet
from safelight.evaluate.tokens import bound
from safelight.grid import Uniform
from safelight.noise import Noise
from safelight.sample import trajectory
from scripts.thin import thin
from tests.discrete.chains import Chain

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
# Times of the strip, and which picture of the fixture is in it.
TIMES = (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)
PICTURE = 3


def corrupted() -> None:
    """A picture of 16 levels under the three chains of D3PM, 1,000 steps each."""
    pictures = load(str(ROOT / "tests" / "fixtures" / "fashion-1000"), channels=1, size=(28, 28))
    grey = Grey(levels=16)
    x0 = grey.read(pictures.batch(torch.tensor([PICTURE])))
    cells = []
    processes: tuple[TokenProcess, ...] = (GaussianTokens(), UniformTokens(), AbsorbingTokens())
    for process in processes:
        model = TokensSpec(process=process, alphabet=grey, size=(28, 28)).build()
        for t in TIMES:
            u = Noise(0, 1).uniform("figure", None, None, x0)
            cells.append(coloured(model, process.noised(x0, torch.tensor([t], dtype=torch.float64), u, 16)))
    target = IMAGES / "discrete-chains.png"
    heads = [f"t = {t:g}" for t in TIMES]
    sheet(torch.cat(cells), columns=len(TIMES), rows=[p.kind for p in processes], heads=heads, scale=3).save(target)
    thin(target)


def exact() -> None:
    """Left: the bound of the exact denoiser over T. Right: pairs of neighbours in samples over steps."""
    chain = Chain.random(tokens=3, length=8)
    x0 = chain.sample(10_000, seed=1)
    least, places = chain.surprise(x0), (4, 8, 16, 32, 64, 128)
    with figure(IMAGES / "discrete-exact.png", 8.6, 3.4) as (fig, target):
        left, right = fig.subplots(1, 2)
        for kind, colour, dash in zip((AbsorbingTokens, UniformTokens), COLOURS, DASHES, strict=False):
            style = {"color": colour, "ls": dash, "marker": "o", "ms": 3}
            left.plot(places, [measured(chain, kind(T=T), x0) - least for T in places], label=kind.kind, **style)
            # Of a linear schedule in T steps absorbing and masked are one process.
            drawn = "absorbing, masked" if kind is AbsorbingTokens else kind.kind
            right.plot(places, [apart(chain, kind(T=T), T) for T in places], label=drawn, **style)
        left.axhline(measured(chain, MaskedTokens(), x0) - least, color=COLOURS[2], ls=DASHES[2], label="masked, continuous")
        right.axhline(0.02, color=INK, lw=0.8, ls=":")
        left.set(title="bound less -log p, nats a token", xlabel="T", xscale="log")
        right.set(title="total variation of pairs", xlabel="steps of sampling", xscale="log", yscale="log")
        for axes in (left, right):
            axes.set_xticks(places, [str(n) for n in places])
            axes.minorticks_off()
            axes.legend()
        fig.savefig(target, dpi=110)
    thin(IMAGES / "discrete-exact.png")


def measured(chain: Chain, process: TokenProcess, x0: torch.Tensor) -> float:
    """The bound with the exact denoiser, nats a token."""
    believed = bound(
        process, lambda x, t: chain.believed(process, x, t).clamp(min=1e-30).log().float(), x0, chain.tokens, batch=5000
    )
    return list(believed)[-1].nats


def apart(chain: Chain, process: TokenProcess, steps: int, count: int = 10_000) -> float:
    """Total variation between the pairs in samples by the exact denoiser and the chain's."""
    noise = Noise(0, count)
    x = process.drawn(noise.uniform("start", None, None, torch.empty(count, 1, 1, chain.length)), chain.tokens)
    levels = process.at(Uniform()(process, steps))
    (*_, last) = trajectory(chain.denoise(process), x, levels, Ancestral(process=process), noise)
    return chain.apart(last.x)[1]


def made(run: Path) -> None:
    """Five pictures of a run on their way, masks in blue."""
    model, moments = read(run), 8
    cells = [
        coloured(model, step.x)
        for step in sample(model, Noise(0, 5), 5, steps=196)
        if (step.i + 1) * moments // step.n > step.i * moments // step.n
    ]
    heads = [f"t = {1 - (k + 1) / moments:.2f}" for k in range(moments)]
    target = IMAGES / "discrete-fashion.png"
    sheet(torch.stack(cells, 1).flatten(0, 1), columns=moments, heads=heads, scale=3).save(target)
    thin(target)


if __name__ == "__main__":
    corrupted()
    exact()
    if len(sys.argv) > 1:
        made(Path(sys.argv[1]) / "masked-fashion")
