"""A training step beside the peers': forward, backward, clipping, optimizer, EMA, at identical architecture and weights.

    python benchmarks/train_step.py [--rounds 9] [--batch 16] [--only ddpm-pytorch|diffusers] [--json FILE]

One torch thread, process CPU time, rounds interleaved and their order reversed each time, the median of paired ratios. Before any
timing our network must answer as the peer's does, to 1e-5 of its largest output. The A/A column is the peer against a second
copy of itself: how far from 1 a ratio may lie by chance.

The peers: `pip install -e .[bench]` brings diffusers; `pip install --no-deps denoising-diffusion-pytorch ema-pytorch accelerate` and
`pip install scipy tqdm psutil` the other, without torchvision, of which it needs only the name (a stand-in lives in this process alone).
A peer that is not installed is left out, with a line that says so.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent.parent))
from safelight.nn.unet import UNetSpec
from tests.nn import peers

Step = Callable[[Tensor, Tensor, Tensor], float]
GATE = 1e-5


def ours(net: nn.Module) -> Step:
    """Our step: fused AdamW and a foreach EMA, as `safelight.train` has them."""
    parameters = list(net.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.0, fused=True)
    average = [p.detach().clone() for p in parameters]

    def step(x: Tensor, t: Tensor, eps: Tensor) -> float:
        loss = F.mse_loss(net(x, t).F, eps)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 0.005)
        return loss.item()

    return step


def ddpm_pytorch(net: nn.Module) -> Step:
    """The step of denoising-diffusion-pytorch's Trainer: Adam, clipping, ema_pytorch every 10 steps, with its default settings."""
    from ema_pytorch import EMA

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.9, 0.99))
    ema = EMA(net, beta=0.995, update_every=10)

    def step(x: Tensor, t: Tensor, eps: Tensor) -> float:
        loss = F.mse_loss(net(x, t), eps)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()
        return loss.item()

    return step


def diffusers(net: nn.Module) -> Step:
    """The step of diffusers' unconditional training example: AdamW, clipping, EMAModel."""
    from diffusers.training_utils import EMAModel

    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    ema = EMAModel(net.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)

    def step(x: Tensor, t: Tensor, eps: Tensor) -> float:
        loss = F.mse_loss(net(x, t).sample, eps)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.step(net.parameters())
        return loss.item()

    return step


def against_ddpm_pytorch() -> tuple[nn.Module, nn.Module, Callable[[nn.Module], Step], Callable[[Tensor], Tensor]]:
    """Unet(32, (1, 2, 4), 1 channel), 2.6 M parameters: (ours, the peer's, the peer's step, its output)."""
    peer = peers.ddpm_pytorch_unet(32, dim_mults=(1, 2, 4), channels=1)
    net = peers.from_ddpm_pytorch(UNetSpec.ddpm_pytorch(32, (1, 2, 4), channels=1).build(), peer)
    return net, peer, ddpm_pytorch, lambda y: y


def against_diffusers() -> tuple[nn.Module, nn.Module, Callable[[nn.Module], Step], Callable[..., Tensor]]:
    """UNet2DModel, 32/64/128, two layers, attention at the deepest level, 3.9 M parameters: (ours, the peer's, its step, its output)."""
    peer = peers.diffusers_unet((32, 64, 128), (False, False, True), channels=1)
    net = peers.from_diffusers(UNetSpec.ddpm((32, 64, 128), (False, False, True), channels=1).build(), peer)
    return net, peer, diffusers, lambda y: y.sample


CASES = {"ddpm-pytorch": against_ddpm_pytorch, "diffusers": against_diffusers}
GOALS = {"ddpm-pytorch": 0.9, "diffusers": 1.0}


def batch_of(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(x_t, noise, eps) of n pictures 1x32x32."""
    g = torch.Generator().manual_seed(seed)
    shape = (n, 1, 32, 32)
    return torch.randn(shape, generator=g), torch.randint(0, 1000, (n,), generator=g).float(), torch.randn(shape, generator=g)


def measure(name: str, rounds: int, batch: int, warm: int = 2) -> dict[str, float]:
    """The ratios of one case. Raises SystemExit when the outputs differ."""
    torch.manual_seed(0)
    net, peer, peer_step, output = CASES[name]()
    with torch.no_grad():
        x, t, _ = batch_of(batch, seed=1)
        reference = output(peer(x, t))
        error = float((net(x, t).F - reference).abs().max() / reference.abs().max())
    if not error <= GATE:
        raise SystemExit(
            f"{name}: our output differs from the peer's by {error:.1e} of its largest value, more than {GATE:.0e}"
        )

    steps = {"peer": peer_step(peer), "ours": ours(net), "again": peer_step(copy.deepcopy(peer))}
    seconds: dict[str, list[float]] = {who: [] for who in steps}
    losses: dict[str, list[float]] = {who: [] for who in steps}
    for i in range(warm + rounds):
        data = batch_of(batch, seed=100 + i)
        for who in list(steps) if i % 2 else list(reversed(steps)):
            start = time.process_time()
            losses[who].append(steps[who](*data))
            if i >= warm:
                seconds[who].append(time.process_time() - start)

    def ratio(a: str, b: str) -> float:
        return statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))

    return {
        "error": error,
        "ratio": ratio("ours", "peer"),
        "a/a": ratio("again", "peer"),
        "min/min": min(seconds["ours"]) / min(seconds["peer"]),
        "ours_ms": 1000 * statistics.median(seconds["ours"]),
        "peer_ms": 1000 * statistics.median(seconds["peer"]),
        "goal": GOALS[name],
        "rounds": rounds,
        "batch": batch,
        "parameters": sum(p.numel() for p in net.parameters()),
        "first_loss_gap": abs(losses["ours"][0] - losses["peer"][0]),
    }


def main() -> None:
    """Measure the cases and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed rounds after two warm-ups")
    parser.add_argument("--batch", type=int, default=16, help="pictures a step")
    parser.add_argument("--only", choices=sorted(CASES), help="one peer alone")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, dict[str, float]] = {}
    print(f"{'peer':<14}{'ratio':>8}{'A/A':>8}{'min/min':>9}{'goal':>7}{'ours ms':>10}{'peer ms':>10}{'output gap':>12}")
    for name in [args.only] if args.only else list(CASES):
        try:
            r = results[name] = measure(name, args.rounds, args.batch)
        except ImportError as missing:
            print(f"{name:<14}left out: {missing} (see --help for how to install it)")
            continue
        print(
            f"{name:<14}{r['ratio']:>8.3f}{r['a/a']:>8.3f}{r['min/min']:>9.3f}{r['goal']:>7.2f}"
            f"{r['ours_ms']:>10.1f}{r['peer_ms']:>10.1f}{r['error']:>12.1e}"
        )
    if args.json:
        args.json.write_text(json.dumps({"torch": torch.__version__, "threads": 1, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
